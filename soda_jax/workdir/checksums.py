"""Checksums of a folder's files, kept beside them: what was damaged after it was written is found and named."""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import stat
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
        entries = pool.map(entry_of, paths)
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
        if not stat.S_ISREG((folder / FILE).stat().st_mode):
            return f"{FILE} is no regular file"
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        whole = content.pop("digest") == _digest(content)
        version, files, written_as = content["format_version"], content["files"], content["name"]
    except FileNotFoundError:
        return f"{FILE} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{FILE} cannot be read ({type(error).__name__})"
    if not whole:
        return f"{FILE} was changed"
    # The digest only shows that nobody changed it by accident: who makes a checkpoint up makes the digest up too.
    if type(version) is not int:
        return f"{FILE} has a format_version that is no number"
    if version > FORMAT_VERSION:
        raise ValueError(f"{folder / FILE} is of a newer release: install a newer soda_jax")
    if written_as != name:
        return f"it was written as {written_as}"
    if not isinstance(files, dict):
        return f"{FILE} lists no files"
    if bad := [path for path, entry in files.items() if not is_entry(path, entry)]:
        return f"{FILE} has a bad entry, {bad[0]!r}"
    if odd := _no_file(folder, parts):
        return f"{odd} is no regular file"
    chosen = {path: entry for path, entry in files.items() if path.split("/")[0] in parts}
    if missing := sorted(part for part in parts if not any(path.startswith(f"{part}/") for path in chosen)):
        return f"{FILE} lists no file of {missing[0]}"
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda item: file_damage(folder, *item), chosen.items())
        return next((problem for problem in found if problem), None)


def is_entry(path: str, entry: Any) -> bool:
    """Whether it is the name of a file inside the folder, and a size and digest as `write` gives them."""
    inside = all(part not in ("", ".", "..") for part in path.split("/")) and path.isprintable()
    if not inside or not isinstance(entry, dict) or entry.keys() != {"size", _ALGORITHM}:
        return False
    size, digest = entry["size"], entry[_ALGORITHM]
    return type(size) is int and size >= 0 and isinstance(digest, str) and bool(re.fullmatch("[0-9a-f]{64}", digest))


def _no_file(folder: pathlib.Path, parts: Sequence[str]) -> str | None:
    """What below `parts` is neither file nor folder: a pipe waits for ever, a device never ends, folders may go round.

    Links to files serve as files do: so download caches keep them.
    """
    waiting = [folder / part for part in parts]
    if linked := next((path for path in waiting if path.is_symlink()), None):
        return linked.name
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(pathlib.Path(entry.path))
                    elif not entry.is_file():
                        return pathlib.Path(entry.path).relative_to(folder).as_posix()
        except OSError:
            continue  # what the list says is in there will be missed
    return None


def file_damage(folder: pathlib.Path, name: str, expected: dict[str, Any]) -> str | None:
    """What is wrong with the file FOLDER/NAME, of which `expected` is the entry; its size is looked at first."""
    path = folder / name
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return f"{name} is no regular file"
        size = found.st_size
        if size != expected["size"]:
            return f"{name} has {size:,} bytes, not {expected['size']:,}"
        return None if entry_of(path) == expected else f"{name} was changed after it was written"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror or error})"


def entry_of(path: pathlib.Path) -> dict[str, Any]:
    """{"size": bytes, "sha256": hex digits} of a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, _ALGORITHM).hexdigest()
        return {"size": file.tell(), _ALGORITHM: digest}


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
