"""Exports as archives at an address, https://.../NAME.zip#sha256=HEX or .tar.gz: fetched once, checked, unpacked.

What is unpacked stands in the user's cache folder under the archive's checksum, which says all that matters: whoever
serves the file, it is the one that was meant. Without a checksum nothing is fetched.
"""

import hashlib
import os
import pathlib
import re
import shutil
import tempfile
from urllib.parse import urlsplit

from tqdm import tqdm

from soda_jax.data.datasets.cache import cache_dir
from soda_jax.workdir import export as exports

# The seam for tests, which add "http" for a server of their own.
SCHEMES = ("https",)
MOST_BYTES = 16 << 30  # of an archive, and of what is in it
MOST_FILES = 10_000
_ENDINGS = (".zip", ".tar.gz", ".tgz")
_BLOCK = 1 << 20
_TIMEOUTS = (30, 120)  # seconds to connect, and between two blocks


def is_address(text: str) -> bool:
    return re.match(r"https?://", text) is not None


def download(address: str) -> str:
    """The folder of the export that the archive at `address` holds, at its top or in its only folder.

    Raises:
      ValueError: the address has no checksum or is no archive's, what came is another file, or holds no export.
      FileNotFoundError: the server has no such file.
      OSError: it could not be fetched or kept.
    """
    url, digest = _parsed(address)
    place = cache_dir() / "models" / digest
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".unfinished.") as unfinished:
            archive = pathlib.Path(unfinished) / pathlib.PurePosixPath(urlsplit(url).path).name[-100:]
            _fetch(url, digest, archive)
            _unpack(archive, pathlib.Path(unfinished) / "unpacked")
            try:
                os.replace(pathlib.Path(unfinished) / "unpacked", place)
            except OSError:
                if not place.is_dir():  # else another process was faster
                    raise
    for folder in (place, *sorted(path for path in place.iterdir() if path.is_dir())):
        if exports.is_export(folder):
            return str(folder)
    shutil.rmtree(place, ignore_errors=True)
    raise ValueError(f"{address} holds no export of soda_jax: there is no {exports.DESCRIPTION} in it")


def _parsed(address: str) -> tuple[str, str]:
    """(the address without its end, the SHA-256 there)."""
    url, _, fragment = address.partition("#")
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"{address}: nothing is fetched over {parts.scheme}; give https://...")
    if not parts.path.lower().endswith(_ENDINGS):
        raise ValueError(f"{address}: give the address of a {', '.join(_ENDINGS)} archive of an export")
    found = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if found is None:
        raise ValueError(
            f"{address}: add the archive's checksum, {url}#sha256=HEX with 64 hex digits, which its publisher names "
            "(sha256sum FILE prints it): without it anything might be loaded"
        )
    return url, found[1].lower()


def _fetch(url: str, digest: str, path: pathlib.Path) -> None:
    """Writes the file at `url` to `path`, if it is the one with this SHA-256."""
    import requests

    found, received = hashlib.sha256(), 0
    try:
        with requests.get(url, stream=True, timeout=_TIMEOUTS) as answer, open(path, "wb") as file:
            if answer.status_code in (404, 410):
                raise FileNotFoundError(f"{url}: the server has no such file ({answer.status_code})")
            answer.raise_for_status()
            if outside := [step.url for step in (*answer.history, answer) if urlsplit(step.url).scheme not in SCHEMES]:
                raise ValueError(f"{url} leads to {outside[0]}, which is not https: use another address")
            length = answer.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
            with tqdm(total=total, desc=path.name, unit="B", unit_scale=True, disable=None) as progress:
                # As they come: the checksum is of the file, whatever the server says of its coding.
                for block in answer.raw.stream(_BLOCK, decode_content=False):
                    received += len(block)
                    if received > MOST_BYTES:
                        raise ValueError(f"{url} has more than {MOST_BYTES:,} bytes, which no model of ours has")
                    found.update(block)
                    file.write(block)
                    progress.update(len(block))
    except (requests.RequestException, _raw_error()) as error:
        raise ConnectionError(f"{url} could not be fetched ({type(error).__name__}: {error})"[:500]) from error
    if found.hexdigest() != digest:
        raise ValueError(
            f"{url} has SHA-256 {found.hexdigest()}, not {digest}: it is damaged or another file; ask its publisher"
        )


def _raw_error() -> type[Exception]:
    """The errors of the layer below `requests`, which reading block by block lets through."""
    from urllib3.exceptions import HTTPError

    return HTTPError


def _unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
    # Imported here: the builders that it serves too import TFDS.
    from soda_jax.data.builders import archives

    archives.unpack(archive, folder, most_bytes=MOST_BYTES, most_files=MOST_FILES)
