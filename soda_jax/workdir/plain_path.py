"""A folder under a name that libraries take as it stands.

orbax looks for the parts of a checkpoint by patterns that begin with the folder's own name, and hands the name to
TensorStore, which reads it as an address: in `run[1]` it finds no part to put together, in `run*` it may find those of
another run, `back\\slash` and `gs:` lead elsewhere, and none of it raises an error.
"""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

_HARMLESS = "-_.,+=@%/ "  # besides letters and digits of any language


class NoPlainPathError(ValueError):
    """There is no place for a link of a plain name."""


def is_plain(path: str | os.PathLike) -> bool:
    """Whether every library takes the path for a name, and for nothing else."""
    return all(char.isalnum() or char in _HARMLESS for char in os.fspath(path))


class PlainPath:
    """A folder's plain name: its own, or that of a link in the system's temporary folder where its own is not plain.

    What clears temporary folders takes what has lain there for some days, so a link that is kept for longer has to be
    renewed before each use. `close` removes the link, and never the folder.

    Attributes:
      path: the plain name, the same for as long as this lives.

    Raises:
      NoPlainPathError: here and in `renew`: the link cannot be made.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder, self._place, self.path = folder, None, folder
        if is_plain(folder):
            return
        try:
            self._place = tempfile.TemporaryDirectory(prefix="soda_jax_", ignore_cleanup_errors=True)
        except OSError as error:
            raise self._no_link(error) from error
        self.path = pathlib.Path(self._place.name) / "folder"
        self.renew()

    def renew(self) -> None:
        """Makes the link again if it is gone, and lets it look new."""
        if self._place is None:
            return
        try:
            if not is_plain(self.path):
                raise OSError(0, f"its own name, {self._place.name}, has such characters too")
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._place.name, 0o700)
            # Everybody may write to the system's temporary folder: in place of what is gone there may be another's.
            if os.lstat(self._place.name).st_uid != os.geteuid():
                raise OSError(0, f"{self._place.name} is another user's now")
            with contextlib.suppress(FileExistsError):
                self.path.symlink_to(self._folder.absolute(), target_is_directory=True)
            for path in (self._place.name, self.path):
                os.utime(path, follow_symlinks=False)
        except OSError as error:
            raise self._no_link(error) from error

    def close(self) -> None:
        if self._place is not None:
            self._place.cleanup()

    def _no_link(self, error: OSError) -> NoPlainPathError:
        return NoPlainPathError(
            f"{self._folder}: checkpoints in a folder of such a name (with one of [ ] * ? \\ : or the like) are "
            "written through a link in the system's temporary folder, which could not be made "
            f"({error.strerror or error}): use another --workdir, or set TMPDIR to a folder that can be written"
        )


@contextlib.contextmanager
def plain_path(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """`folder`, or a link to it of a plain name where its own is not, for as long as the context lasts.

    Raises:
      NoPlainPathError: there is no place for such a link.
    """
    plain = PlainPath(folder)
    try:
        yield plain.path
    finally:
        plain.close()
