"""Downloaded archives: their checksums, and unpacking that stays inside its folder."""

import hashlib
import lzma
import os
import pathlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from soda_jax.data.builders.base import ArchiveError

_BLOCK = 1 << 20
# RuntimeError: an encrypted zip. The others: bits that mean nothing, or members in each other's place.
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    NotImplementedError,
    RuntimeError,
    UnicodeError,
)


class _Member(NamedTuple):
    """A file of an archive; `size` is in bytes, unpacked; `content` is None for a folder."""

    name: str
    size: int
    content: IO[bytes] | None


def check_checksum(path: pathlib.Path, checksum: str) -> None:
    """Compares a file with "md5:..." or "sha256:...".

    Raises:
        ArchiveError: they differ.
    """
    algorithm, expected = checksum.split(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise ArchiveError(
            f"{path} has the {algorithm} checksum {digest.hexdigest()}, expected {expected}: "
            "it is damaged or another version; download it again."
        )


def unpack(
    archive: pathlib.Path, folder: pathlib.Path, *, most_bytes: int | None = None, most_files: int | None = None
) -> None:
    """Unpacks a .zip or .tar into `folder`, all of it or nothing.

    Everything is first written below `folder`/.unpacking, then moved into place.

    Args:
        most_bytes, most_files: what all of it together may be; by default what the disk takes.

    Raises:
        ArchiveError: the archive is damaged or encrypted, has links or names that lead out of the folder, does not
            fit on the disk, has more than it may have, or what it contains exists already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / ".unpacking"
    shutil.rmtree(unfinished, ignore_errors=True)  # left by an interruption
    unfinished.mkdir()
    size = 0
    try:
        for count, member in enumerate(_members(archive), start=1):
            size += member.size
            if (most_bytes is not None and size > most_bytes) or (most_files is not None and count > most_files):
                raise ArchiveError(
                    f"{archive} has more than {most_files:,} files or {most_bytes:,} bytes, which nothing that belongs "
                    "here has; refusing to unpack it."
                )
            path = unfinished / _checked_name(archive, member.name)
            if member.content is None:
                path.mkdir(parents=True, exist_ok=True)
                continue
            if member.size > (free := shutil.disk_usage(unfinished).free):
                raise ArchiveError(
                    f"{archive}: {member.name!r} unpacks to {member.size:,} bytes, and {free:,} are free on the disk."
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            with member.content as content, open(path, "xb") as file:
                shutil.copyfileobj(content, file, _BLOCK)
        entries = sorted(path.name for path in unfinished.iterdir())
        if existing := [name for name in entries if (folder / name).exists()]:
            raise ArchiveError(
                f"{folder / existing[0]} exists, but is incomplete; move it away to unpack {archive.name}."
            )
        for name in entries:
            os.replace(unfinished / name, folder / name)
    except _DAMAGE as error:
        raise ArchiveError(f"{archive} cannot be unpacked ({error}); download it again.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _members(archive: pathlib.Path) -> Iterator[_Member]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise ArchiveError(f"{archive}: {info.filename!r} is a link; refusing to unpack it.")
                # Resource forks of macOS are no part of the data.
                if not info.filename.startswith("__MACOSX/"):
                    is_folder = info.filename.endswith("/")
                    yield _Member(info.filename, info.file_size, None if is_folder else opened.open(info))
        return
    with tarfile.open(archive) as opened:
        for info in opened:
            if not (info.isfile() or info.isdir()):
                raise ArchiveError(f"{archive}: {info.name!r} is a link or a device; refusing to unpack it.")
            yield _Member(info.name, info.size, None if info.isdir() else opened.extractfile(info))


def _checked_name(archive: pathlib.Path, name: str) -> pathlib.PurePosixPath:
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ArchiveError(f"{archive}: {name!r} leads out of the folder; refusing to unpack it.")
    return path
