"""Damages checkpoints in every way that disks, copies and people do, and looks at what is made of them."""

import contextlib
import dataclasses
import io
import pathlib
import random
import shutil
from collections.abc import Callable

import numpy as np

from soda_jax.tools.drill.runs import same_bits
from soda_jax.workdir.checkpoint import Checkpointer, damage, directory, read_arrays, read_meta, saved_steps

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one damaged checkpoint.

    Attributes:
      kind: of the damage.
      file: that was damaged, relative to the checkpoint.
      result: "detected" (named, set aside, the one before used), "harmless" (restored bit by bit all the same), or
        what went wrong.
    """

    kind: str
    file: str
    result: str

    @property
    def good(self) -> bool:
        return self.result in ("detected", "harmless")


def corruptions(workdir: pathlib.Path, scratch: pathlib.Path, count: int, seed: int) -> list[Outcome]:
    """Damages the newest of `workdir`'s two last checkpoints `count` times, each time in a fresh copy.

    The kinds of damage take turns; file and place are random.
    """
    rng = random.Random(seed)
    newest, before = saved_steps(str(workdir))[:2]
    true = {step: read_arrays(str(workdir), step) for step in (newest, before)}
    outcomes = []
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        shutil.rmtree(scratch, ignore_errors=True)
        for step in (newest, before):
            shutil.copytree(directory(str(workdir)) / str(step), directory(str(scratch)) / str(step))
        folder = directory(str(scratch)) / str(newest)
        file = _some_file(folder, rng)
        name = file.relative_to(folder).as_posix()
        KINDS[kind](file, folder, rng)
        try:
            result = _judge(scratch, newest, before, true)
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        outcomes.append(Outcome(kind, name, result))
    shutil.rmtree(scratch, ignore_errors=True)
    return outcomes


def _some_file(folder: pathlib.Path, rng: random.Random) -> pathlib.Path:
    """Any file, half the time; otherwise a large one the likelier, as disks choose them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return rng.choice(files) if rng.random() < 0.5 else rng.choices(files, [path.stat().st_size for path in files])[0]


def _judge(scratch: pathlib.Path, newest: int, before: int, true: dict[int, Arrays]) -> str:
    """What a reader of the weights and a resumed run get from the damaged workdir."""
    named = damage(str(scratch), newest)
    read, _ = read_meta(str(scratch))
    found = read_arrays(str(scratch), read, ("ema",))
    if wrong := [name for name in found if not same_bits(found[name], true[read][name])]:
        return f"silently wrong: a reader gets other weights, {wrong[0]}"
    said = io.StringIO()
    with contextlib.redirect_stdout(said), Checkpointer(str(scratch), keep_every=1_000_000) as checkpointer:
        resumed = checkpointer.step
    found = read_arrays(str(scratch), resumed)
    if found.keys() != true[resumed].keys() or not all(same_bits(found[name], true[resumed][name]) for name in found):
        return f"silently wrong: training would resume from {resumed} with other values"
    if resumed == newest:
        return "harmless"
    aside = directory(str(scratch)) / f"{newest}.damaged"
    named = named is not None and f"checkpoint {newest} is damaged ({named})" in said.getvalue()
    return "detected" if resumed == before and named and aside.is_dir() else "detected, but not named or not set aside"


def _truncate(file: pathlib.Path, folder: pathlib.Path, rng: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content))])


def _flip(file: pathlib.Path, folder: pathlib.Path, rng: random.Random, bits: int = 1) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(bits):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def _zero(file: pathlib.Path, folder: pathlib.Path, rng: random.Random) -> None:
    content = file.read_bytes()
    start = rng.randrange(len(content))
    block = content[start : start + 4096]
    file.write_bytes(content[:start] + bytes(len(block)) + content[start + len(block) :])


def _append(file: pathlib.Path, folder: pathlib.Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randrange(1, 1000)))


def _remove_item(file: pathlib.Path, folder: pathlib.Path, rng: random.Random) -> None:
    shutil.rmtree(folder / rng.choice(("ema", "train", "meta")))


def _swap(file: pathlib.Path, folder: pathlib.Path, rng: random.Random) -> None:
    other = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path != file))
    first, second = file.read_bytes(), other.read_bytes()
    file.write_bytes(second)
    other.write_bytes(first)


def _from_the_one_before(file: pathlib.Path, folder: pathlib.Path, rng: random.Random) -> None:
    """A whole item of the checkpoint before: a copy that was interrupted."""
    item = rng.choice(("ema", "train", "meta"))
    before = min((path for path in folder.parent.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    shutil.rmtree(folder / item)
    shutil.copytree(before / item, folder / item)


KINDS: dict[str, Callable[[pathlib.Path, pathlib.Path, random.Random], None]] = {
    "file truncated": _truncate,
    "one bit flipped": _flip,
    "64 bits flipped": lambda file, folder, rng: _flip(file, folder, rng, 64),
    "block of zeros": _zero,
    "file emptied": lambda file, folder, rng: file.write_bytes(b""),
    "file missing": lambda file, folder, rng: file.unlink(),
    "bytes appended": _append,
    "item missing": _remove_item,
    "two files swapped": _swap,
    "item of the one before": _from_the_one_before,
}
