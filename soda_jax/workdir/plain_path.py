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


def is_plain(path: str | os.PathLike) -> bool:
    """Whether every library takes the path for a name, and for nothing else."""
    return all(char.isalnum() or char in _HARMLESS for char in os.fspath(path))


@contextlib.contextmanager
def plain_path(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """`folder`, or a link to it of a plain name where its own is not. The link goes in the end, the folder stays.

    Raises:
      ValueError: there is no place for such a link.
    """
    if is_plain(folder):
        yield folder
        return
    with contextlib.ExitStack() as stack:
        try:
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="soda_jax_"))
            link = pathlib.Path(place) / "folder"
            if not is_plain(link):
                raise OSError(0, f"its own name, {place}, has such characters too")
            link.symlink_to(folder.absolute(), target_is_directory=True)
        except OSError as error:
            raise ValueError(
                f"{folder}: checkpoints in a folder of such a name (with one of [ ] * ? \\ : or the like) are written "
                f"through a link in the system's temporary folder, which could not be made ({error.strerror or error}):"
                " use another --workdir, or set TMPDIR to a folder that can be written"
            ) from error
        yield link
