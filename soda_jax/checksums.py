"""Checksums of a folder's files, kept beside them: what was damaged after it was written is found and named."""

import concurrent.futures
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

FILE = "checksums.json"
FORMAT_VERSION = 1
_ALGORITHM = "sha256"
_THREADS = 8


def write(folder: pathlib.Path, parts: Sequence[str], name: str) -> None:
    """Writes FOLDER/checksums.json: size and SHA-256 of every file below FOLDER/PART for each of `parts`.

    Args:
      name: what the folder is called, so that a folder in the place of another one is found too.
    """
    paths = [path for part in parts for path in sorted((folder / part).rglob("*")) if path.is_file()]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        entries = pool.map(_entry, paths)
        files = {path.relative_to(folder).as_posix(): entry for path, entry in zip(paths, entries, strict=True)}
    content = {"format_version": FORMAT_VERSION, "algorithm": _ALGORITHM, "name": name, "files": files}
    with open(folder / FILE, "w", encoding="utf-8") as file:
        json.dump(content | {"digest": _digest(content)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def damage(folder: pathlib.Path, parts: Sequence[str], name: str) -> str | None:
    """What is wrong with the files below `parts`, in a few words that name the file; None if nothing is.

    Files that the list lacks are nobody's and do not count.

    Raises:
      ValueError: a newer release wrote the checksums.
    """
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        whole = content.pop("digest") == _digest(content)
        files, written_as = content["files"], content["name"]
    except FileNotFoundError:
        return f"{FILE} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{FILE} cannot be read ({type(error).__name__})"
    if not whole:
        return f"{FILE} was changed"
    if content["format_version"] > FORMAT_VERSION:
        raise ValueError(f"{folder / FILE} is of a newer release: install a newer soda_jax")
    if written_as != name:
        return f"it was written as {written_as}"
    chosen = {path: entry for path, entry in files.items() if path.split("/")[0] in parts}
    if missing := sorted(part for part in parts if not any(path.startswith(f"{part}/") for path in chosen)):
        return f"{FILE} lists no file of {missing[0]}"
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda item: _file_damage(folder, *item), chosen.items())
        return next((problem for problem in found if problem), None)


def _file_damage(folder: pathlib.Path, name: str, expected: dict[str, Any]) -> str | None:
    path = folder / name
    try:
        size = path.stat().st_size
        if size != expected["size"]:
            return f"{name} has {size:,} bytes, not {expected['size']:,}"
        return None if _entry(path) == expected else f"{name} was changed after it was written"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror or error})"


def _entry(path: pathlib.Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, _ALGORITHM).hexdigest()
        return {"size": file.tell(), _ALGORITHM: digest}


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
