"""Files that cannot be read: skipped, counted and listed, until there are too many."""

import logging
import os
import pathlib
import re
import tempfile
import threading
from collections.abc import Sequence

from soda_jax.data.datasets.base import readable_name
from soda_jax.data.decode import DecodeError, decode_image

_LOGGED = 10
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|\\)")


class TooManyBadFilesError(ValueError):
    """More files than allowed cannot be read."""


class DatasetGoneError(ValueError):
    """The folder of the dataset vanished: it was unmounted, moved or deleted."""


class BadFiles:
    """The files of a split that turned out broken, listed in a file that all processes share.

    The list has a line for each file: its path, a tab, the reason; control characters and backslashes of a path are
    written as escapes (\\x0a, \\x1b, \\\\). Worker processes append to it and
    read what the others have appended, so that each knows the count of all. What an earlier run listed
    counts as well, unless it has been repaired or removed since.

    Args:
        root: the folder below which the files lie.
        files: the split's files, relative to `root`.
        max_share: share of the files that may be broken.
        path: of the list; None keeps it in memory, apart for each process.
        setting: what sets `max_share`, for messages.

    Raises:
        TooManyBadFilesError: the list is already too long.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        files: Sequence[str],
        *,
        max_share: float,
        path: str | os.PathLike | None = None,
        setting: str = "config.data.max_bad_share",
    ):
        if not 0 <= max_share <= 1:
            raise ValueError(f"{setting}={max_share} must lie in 0..1.")
        self._prefix = os.path.join(os.fspath(root), "")
        self._files = files
        self._max_share, self._setting = max_share, setting
        self._path = None if path is None else pathlib.Path(path)
        self._known: set[str] = set()
        self._expected: frozenset[str] | None = None
        self._read = 0
        self._lock = threading.Lock()
        if self._path is not None and self._path.exists():
            _drop_repaired(self._path)
            self._read_news()
            self._check()

    def report(self, error: DecodeError) -> None:
        """Counts and lists the file that `error` is about, once.

        Raises:
            DatasetGoneError: the folder itself is gone, so the file is not to blame.
            TooManyBadFilesError: that makes it too many; names the list and what to do.
        """
        if not os.path.isdir(self._prefix):
            raise DatasetGoneError(
                f"the dataset's folder {self._prefix} cannot be read any more; bring it back, then run the same "
                "command again"
            )
        with self._lock:
            self._read_news()
            if error.name in self._known:
                return
            self._known.add(error.name)
            reason = readable_name(" ".join(error.reason.split()))
            if len(self._known) <= _LOGGED:
                rest = "; further ones are only listed" if len(self._known) == _LOGGED else ""
                logging.getLogger(__name__).warning("skipping %s (%s)%s", readable_name(error.name), reason, rest)
            if self._path is not None:
                self._append(f"{_escaped(error.name)}\t{reason}\n")
            self._check()

    def names(self) -> list[str]:
        """The broken files found so far, by every process that shares the list, sorted."""
        with self._lock:
            self._read_news()
            return sorted(self._known)

    def summary(self) -> str:
        """One sentence: how many files are broken, and where they are listed; "" if none is."""
        names = self.names()
        where = (
            f"listed in {self._path}" if self._path else f"the first is {readable_name(names[0]) if names else None}"
        )
        return f"{len(names)} of {len(self._files)} files cannot be read; {where}." if names else ""

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_expected")}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock(), _expected=None)

    def _check(self) -> None:
        count, total = len(self._known), len(self._files)
        if count > self._max_share * total:
            where = f"They are listed in {self._path}" if self._path else f"One is {readable_name(min(self._known))}"
            raise TooManyBadFilesError(
                f"{count} of {total} image files cannot be read ({count / total:.1%}), more than "
                f"max_bad_share={self._max_share}. {where}: repair or remove them, or raise {self._setting}."
            )

    def _append(self, line: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:  # One write a line: lines of several processes do not mix.
            os.write(descriptor, line.encode("utf-8", "surrogateescape"))
        finally:
            os.close(descriptor)

    def _read_news(self) -> None:
        """Takes over what others have appended since the last time."""
        if self._path is None or not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(self._read)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._read += len(complete)
        for line in complete.split(b"\n")[:-1]:
            name = _name(line)
            if self._is_ours(name):
                self._known.add(name)

    def _is_ours(self, name: str) -> bool:
        if self._expected is None:
            self._expected = frozenset(self._files)
        return name.startswith(self._prefix) and name[len(self._prefix) :] in self._expected


def _escaped(name: str) -> str:
    """The name without control characters, so that it is one word of a line; `_name` reads it."""
    return _CONTROL.sub(lambda found: "\\\\" if found[0] == "\\" else f"\\x{ord(found[0]):02x}", name)


def _name(line: bytes) -> str:
    written = line.partition(b"\t")[0].decode("utf-8", "surrogateescape")
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else "\\", written)


def _drop_repaired(path: pathlib.Path) -> None:
    """Takes off the list what can be read now or does not exist any more."""
    *lines, rest = path.read_bytes().split(b"\n")  # the rest is a line that a killed process began
    kept = [line for line in lines if _still_bad(_name(line))]
    if kept == lines and not rest:
        return
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(line + b"\n" for line in kept)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def _still_bad(name: str) -> bool:
    if not os.path.lexists(name):  # a link to nothing is there, and still bad
        return False
    try:
        decode_image(name)
    except DecodeError:
        return True
    return False
