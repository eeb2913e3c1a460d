"""splits.json: which objects of a multi-view set belong to which split."""

import json
import pathlib

from soda_jax.data.datasets.base import split_of

SPLIT_FILE = "splits.json"


def read_splits(file: pathlib.Path) -> dict[str, list[str]]:
    """The members of every split, in the file's order.

    Names of one split, as "val" and "Validation", are that split together; other names stay as they are.

    Raises:
        ValueError: the file cannot be read or has another form, or a member is named twice.
    """
    try:
        written = json.loads(file.read_text(encoding="utf-8-sig"))  # some editors begin a file with a byte order mark
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}); repair or remove it.") from None
    if not isinstance(written, dict) or not all(
        isinstance(members, list) and all(isinstance(name, str) for name in members) for members in written.values()
    ):
        raise ValueError(f'{file} must be {{"train": [...], "validation": [...], "test": [...]}}; repair or remove it.')
    splits: dict[str, list[str]] = {}
    for split, members in written.items():
        splits.setdefault(split_of(split) or split, []).extend(members)
    every = [name for members in splits.values() for name in members]
    if len(set(every)) < len(every):
        twice = next(name for name in every if every.count(name) > 1)
        raise ValueError(f"{file} has {twice!r} more than once; an object belongs to one split.")
    return splits
