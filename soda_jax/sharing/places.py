"""Which folder a model lies in, whatever a user names it by: a path, a name, the hub, an address. The one resolver."""

import difflib
import functools
import os
import re
import sys

from soda_jax.paths import expanded
from soda_jax.sharing import downloads, hub, shipped

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def model_folder(place: str | os.PathLike, field: str = "workdir") -> str:
    """The folder of the model that `place` names: a run's, or an export's. What is not on this machine is fetched.

    Args:
      place: the path of a run's folder or of an export; the name of a model that comes with soda_jax, unless a folder
        here is called so; hf://ORG/NAME or hf://ORG/NAME@REVISION; or https://.../NAME.zip#sha256=HEX (.tar.gz too).
      field: what the user knows the place by, as "--workdir".

    Returns:
      For a path that path, whether anything is there or not.

    Raises:
      FileNotFoundError: a plain name that nothing here has, or a repository or file that is not there.
      ValueError: no place at all, an address that cannot be used, or what came from it is no export.
      OSError: it could not be fetched.
    """
    text = expanded(place, field)
    if hub.is_address(text):
        return hub.download(text)
    if downloads.is_address(text):
        return downloads.download(text)
    names = shipped.names()
    if text in names and os.path.isdir(text):
        _say_which(text, os.path.abspath(text))
    elif text in names:
        return str(shipped.FOLDER / text)
    elif _NAME.fullmatch(text) and not os.path.lexists(text):
        raise FileNotFoundError(_unknown(text, names, field))
    return text


def is_path(place: str | os.PathLike) -> bool:
    """Whether `model_folder` takes the place for a path: then the folder is the user's own, to write into as well."""
    text = expanded(place)
    if hub.is_address(text) or downloads.is_address(text):
        return False
    return os.path.isdir(text) or text not in shipped.names()


def shown(place: str | os.PathLike) -> str:
    """The place as records name it: a path as an absolute one, all else as it was given."""
    return os.path.abspath(expanded(place)) if is_path(place) else os.fspath(place)


@functools.cache  # once, however often it is asked for
def _say_which(name: str, folder: str) -> None:
    print(
        f"{name!r} is the folder {folder} here; the model of this name that comes with soda_jax is loaded where there "
        "is no such folder",
        file=sys.stderr,
    )


def _unknown(text: str, names: list[str], field: str) -> str:
    ours = f"those that do are {', '.join(names)}" if names else "none does"
    close = difflib.get_close_matches(text, names)
    guess = f" (did you mean {' or '.join(close)}?)" if close else ""
    return (
        f"{field}={text}: there is no folder {text!r} here, and no model of this name comes with soda_jax; "
        f"{ours}{guess}. Give a name, hf://ORG/NAME, or the path of a folder: of a run, in which training wrote "
        "checkpoints/, or of an export, which has soda.json"
    )
