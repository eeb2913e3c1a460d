"""Paths as users give them: ~ stands for the home folder, and what no file system takes is refused by its name."""

import os
import pathlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO


def expanded(path: str | os.PathLike, field: str = "path") -> str:
    """`path` with ~ and ~user expanded.

    Args:
      field: what the user knows the path by, as "--workdir".

    Raises:
      ValueError: the path is blank, or holds a zero byte or bytes that are not UTF-8.
    """
    text = os.fsdecode(path)
    if not text.strip():
        raise ValueError(f"{field}={text!r} is empty: give a path (is a shell variable in it unset?)")
    if "\0" in text:
        raise ValueError(f"{field}={text!r} holds a zero byte, which no path can: leave it out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{field}={text!r} holds bytes that are not UTF-8: rename the folder") from None
    return os.path.expanduser(text)


def run_folder(path: str | os.PathLike, field: str = "workdir") -> str:
    """The absolute path of a run's folder, which need not exist.

    Raises:
      ValueError: for what `expanded` refuses, or a file.
    """
    folder = os.path.abspath(expanded(path, field))
    if os.path.isfile(folder):
        raise ValueError(f"{field}={folder} is a file: give a folder")
    return folder


def output_file(path: str | os.PathLike, field: str) -> str:
    """`expanded`, for a file that is written after work that takes long: its folder is made now.

    Raises:
      ValueError: for what `expanded` refuses, a folder, or a place that cannot be written.
    """
    file = expanded(path, field)
    folder = os.path.dirname(os.path.abspath(file))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{field}={file}: the folder {folder} cannot be made ({error.strerror})") from error
    if os.path.isdir(file):
        raise ValueError(f"{field}={file} is a folder: give a file")
    if not os.access(file if os.path.exists(file) else folder, os.W_OK):
        raise ValueError(f"{field}={file} cannot be written: make it writable, or give another file")
    return file


@contextmanager
def replaced(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once it is on the disk; an error leaves all as it was."""
    path = pathlib.Path(path).absolute()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise
