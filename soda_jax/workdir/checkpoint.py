"""Checkpoints: the training state, the data position and the config, written asynchronously and atomically.

Layout: WORKDIR/checkpoints/STEP/{ema,train,meta,checksums.json}. `ema` alone is what users of a trained model read;
`meta` is JSON (`meta.py`). A folder gets its name when all of it is on disk, its checksums too. If it does not match
them, it was damaged later: it is named and left out, and the one before is used. This is the only module that knows
orbax.
"""

import logging as standard_logging
import math
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, EveryNSteps, LatestN

from soda_jax.objectives.state import TrainState
from soda_jax.parallel.processes import decided_by_first
from soda_jax.paths import expanded
from soda_jax.version import __version__
from soda_jax.workdir import checksums, provenance
from soda_jax.workdir.meta import FORMAT_VERSION, DamagedCheckpointError, parse_meta
from soda_jax.workdir.plain_path import NoPlainPathError, PlainPath, plain_path

EMA_FIELDS = ("ema_params", "ema_batch_stats")
ITEMS = ("ema", "train", "meta")
WRITING_PATTERN = "*.orbax-checkpoint-tmp*"  # folders of checkpoints that are not whole yet
KEPT = 2  # the newest ones: where one is damaged, the one before takes its place


class CheckpointWriteError(OSError):
    """A checkpoint could not be written; those before it are untouched."""


def directory(workdir: str) -> pathlib.Path:
    return (pathlib.Path(expanded(workdir, "workdir")) / "checkpoints").resolve()


def latest_step(workdir: str) -> int | None:
    """The newest checkpoint's step, its content unseen; None where there is none."""
    return next((step for step in saved_steps(workdir) if (directory(workdir) / str(step) / "meta").is_dir()), None)


def saved_steps(workdir: str) -> list[int]:
    """Of all checkpoints, whole or not, newest first."""
    names = (child.name for child in directory(workdir).glob("*") if child.is_dir())
    return sorted((int(name) for name in names if name.isascii() and name.isdigit()), reverse=True)


def damage(workdir: str, step: int, items: Sequence[str] = ITEMS) -> str | None:
    """What is wrong with `items` of a checkpoint, in a few words that name the file; None if they are sound.

    Raises:
      ValueError: a newer release wrote it.
    """
    path = directory(workdir) / str(step)
    has_checksums = (path / checksums.FILE).exists()
    if has_checksums and (found := checksums.damage(path, items, str(step))):
        return found
    try:
        meta = parse_meta(path)
    except DamagedCheckpointError as error:
        return str(error)
    if has_checksums:  # sound files may still be no checkpoint, as those that orbax could not put together
        return _unreadable(path, items)
    return _unreadable(path, items, whole=True) if meta["format_version"] == 1 else f"{checksums.FILE} is missing"


def _unreadable(path: pathlib.Path, items: Sequence[str], whole: bool = False) -> str | None:
    """Tries to read a checkpoint: what each item holds and its smallest array, or all of it.

    All of it where there are no checksums, as in format 1: flipped bytes may still go unnoticed.
    """
    for item in items:
        try:
            if item != "meta":
                _read_item(path / item, whole)
        except Exception as error:  # damaged files raise nearly anything
            return f"{item} cannot be read ({type(error).__name__})"
    return None


def _read_item(path: pathlib.Path, whole: bool = True, field: str = "") -> Any:
    """The tree of one item, arrays on the host; if not `whole`, `field` and the smallest, `...` in place of others.

    This process reads by itself: orbax would wait for the others.
    """
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(me, active_processes={me}, barrier_sync_key_prefix=f"read_by_{me}")
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with plain_path(path) as path, ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        tree = handler.metadata(epath.Path(path)).tree
        leaves, structure = jax.tree.flatten(tree)
        smallest = min(leaves, key=lambda leaf: math.prod(leaf.shape))
        kept = {id(leaf) for leaf in (leaves if whole else [smallest, *jax.tree.leaves(tree.get(field))])}
        wanted = [leaf if id(leaf) in kept else ocp.PLACEHOLDER for leaf in leaves]
        plain = [ocp.RestoreArgs(restore_type=np.ndarray) for _ in leaves]
        arguments = ocp.args.PyTreeRestore(structure.unflatten(wanted), restore_args=structure.unflatten(plain))
        return checkpointer.restore(path, arguments)


def read_arrays(workdir: str, step: int, items: Sequence[str] = ("ema", "train")) -> dict[str, np.ndarray]:
    """Every array of a checkpoint on the host, by its path; nothing is checked. For comparisons, on one process."""
    trees = {item: _read_item(directory(workdir) / str(step) / item) for item in items}
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(trees)}


def read_probe(workdir: str, step: int) -> Any:
    """A checkpoint's `ProbeState` on the host, as a dict, or None; DamagedCheckpointError if `train` is not sound."""
    if wrong := damage(workdir, step, ("train",)):
        raise DamagedCheckpointError(f"checkpoint {directory(workdir) / str(step)} is damaged: {wrong}")
    return _read_item(directory(workdir) / str(step) / "train", whole=False, field="probe").get("probe")


def _newest_sound(workdir: str, items: Sequence[str]) -> tuple[int | None, dict[int, str]]:
    """(step of the newest sound checkpoint or None, what is wrong with those after it)."""
    damaged: dict[int, str] = {}
    for step in saved_steps(workdir):
        found = damage(workdir, step, items)
        if found is None:
            return step, damaged
        damaged[step] = found
    if damaged:
        listed = "".join(f"\n  {step}: {found}" for step, found in damaged.items())
        raise DamagedCheckpointError(
            f"every checkpoint in {directory(workdir)} is damaged:{listed}\n"
            "Put one back from a copy, or move the folder away to start anew."
        )
    return None, damaged


def _tidied(workdir: str) -> int | None:
    """The newest sound checkpoint's step; what a killed run left half written goes, and damaged ones are renamed.

    orbax's own clearing works in a thread, which fails loudly where the run ends at once for another reason.
    """
    for number, unfinished in enumerate(directory(workdir).glob(WRITING_PATTERN)):
        os.replace(unfinished, unfinished.with_name(f"{time.time_ns()}.{number}.unfinished"))
    for unfinished in directory(workdir).glob("*.unfinished"):
        # Another host's process may hold a file of it for a moment longer; the next start has another try.
        shutil.rmtree(unfinished, ignore_errors=True)
    step, damaged = _newest_sound(workdir, ITEMS)
    for number, found in damaged.items():
        path = directory(workdir) / str(number)
        taken = sum(1 for _ in path.parent.glob(f"{number}.damaged*"))
        aside = path.with_name(f"{number}.damaged{f'.{taken + 1}' if taken else ''}")
        os.replace(path, aside)
        print(f"checkpoint {number} is damaged ({found}): set aside as {aside}; using {step} instead", flush=True)
    return step


def _one_copy(state: TrainState) -> TrainState:
    """Of what every device holds whole, one device's: else orbax cuts each of a thousand small arrays among them all.

    Several processes have to share the work as orbax does.
    """
    if jax.process_count() > 1:
        return state
    return jax.tree.map(lambda x: x.addressable_data(0) if x.is_fully_replicated else x, state)


def _split(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    if state.adversary is None:  # as in checkpoints from before there were any
        del fields["adversary"]
    ema = {name: fields.pop(name) for name in EMA_FIELDS}
    return ema, fields


class _Manager(ocp.CheckpointManager):
    """Without orbax's own questions for a preemption.

    JAX finds the point at which all processes stop by counting one run of questions, and those are `StopSignals`'s.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class _Chosen:
    """Preserves the checkpoint of one step; None: no more than the policies beside it do."""

    step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]


class Checkpointer:
    """Writes and restores the checkpoints of a run. Use as a context manager: leaving waits for pending writes.

    Damaged checkpoints are set aside and unfinished ones removed, so only the run that holds the workdir's lock may
    make one.

    Args:
      workdir: the run's folder.
      keep_every: checkpoints at multiples of it are kept for good; of the others the last two, and `keep`'s.

    Attributes:
      step: of the newest sound checkpoint when this was made; None where there was none.
      meta: its JSON data; {} where there was none.

    Raises:
      DamagedCheckpointError: there are checkpoints, and none is sound.
      CheckpointWriteError: from `save`, `wait` and leaving: a checkpoint could not be written.
    """

    def __init__(self, workdir: str, keep_every: int):
        self._workdir = workdir
        self.step = decided_by_first(lambda: _tidied(workdir))
        self.meta = {} if self.step is None else parse_meta(directory(workdir) / str(self.step))
        self._writing: int | None = None
        self._when_written: Callable[[], None] | None = None
        self._arrays: dict[str, int] = {}  # of each item that is being written
        directory(workdir).mkdir(parents=True, exist_ok=True)
        self._folder = PlainPath(directory(workdir))
        self._chosen = _Chosen()
        self._manager = _Manager(
            self._folder.path,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy([LatestN(KEPT), EveryNSteps(keep_every), self._chosen]),
                async_options=ocp.AsyncOptions(post_finalization_callback=self._add_checksums),
            ),
            item_names=ITEMS,
        )

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            self.wait()
        except CheckpointWriteError:
            if error is None:
                raise
            logging.exception("while ending for another reason")
        finally:
            self._manager.close()
            self._folder.close()

    def keep(self, step: int | None) -> None:
        """From the next save on, keeps the checkpoint of `step` beside the last ones; the one before it goes then.

        The next save may be that of `step` itself: what it replaces is removed when it is whole.
        """
        self._chosen.step = step

    def wait(self) -> None:
        """Returns when every started save is on disk."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._not_written(error) from error

    def save(self, state: TrainState, meta: dict[str, Any], when_written: Callable[[], None] | None = None) -> None:
        """Starts writing `state`.

        Args:
          meta: JSON data (config, targets, data position).
          when_written: called in a thread, on the first process, just before the checkpoint gets its name.
        """
        self.wait()  # so that its errors are told from this one's
        ema, train = _split(_one_copy(state))
        step = int(state.step)
        self._when_written, self._writing = when_written, step
        self._arrays = {"ema": len(jax.tree.leaves(ema)), "train": len(jax.tree.leaves(train))}
        meta = {
            "format_version": FORMAT_VERSION,
            "soda_jax": __version__,
            "jax": jax.__version__,
            "versions": provenance.versions(),
        } | meta
        try:
            self._folder.renew()
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    ema=ocp.args.StandardSave(ema),
                    train=ocp.args.StandardSave(train),
                    meta=ocp.args.JsonSave(meta),
                ),
            )
        except Exception as error:
            raise self._not_written(error) from error

    def verify(self) -> None:
        """Waits for the last save, and reads back which arrays it holds and the smallest ones; never all of a model.

        Several processes must all call it; the first one reads. Does nothing before the first save.

        Raises:
          CheckpointWriteError: what was written is no checkpoint.
        """
        self.wait()
        if self._writing is not None:
            decided_by_first(self._read_back)

    def _read_back(self) -> None:
        path = directory(self._workdir) / str(self._writing)
        found = damage(self._workdir, self._writing, ("meta",))
        for item, count in self._arrays.items():
            try:
                held = len(jax.tree.leaves(_read_item(path / item, whole=False)))
                found = found or (None if held == count else f"{item} holds {held} arrays of {count}")
            except Exception as error:
                found = found or f"{item}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if found:
            raise CheckpointWriteError(
                f"the checkpoint of step {self._writing} was written to {path}, but cannot be read back ({found}): "
                "move it away, and run the same command again with another --workdir or on another disk"
            )

    def _add_checksums(self) -> None:
        """Runs when all files are written, and before the folder gets its final name."""
        (folder,) = directory(self._workdir).glob(f"{self._writing}.orbax-checkpoint-tmp*")
        checksums.write(folder, ITEMS, str(self._writing))
        if self._when_written is not None:
            self._when_written()

    def _not_written(self, error: Exception) -> CheckpointWriteError:
        # A full disk fails every array; asyncio would print a traceback for each and bury what we say.
        standard_logging.getLogger("asyncio").setLevel(standard_logging.CRITICAL)
        cause = next((e for e in _chain(error) if isinstance(e, OSError) and e.strerror), None)
        reason = cause.strerror if cause else " ".join(str(error).split())[:300]
        if isinstance(error, NoPlainPathError):
            reason = str(error)
        good = next((step for step in saved_steps(self._workdir) if step != self._writing), None)
        return CheckpointWriteError(
            f"the checkpoint of step {self._writing} could not be written to {directory(self._workdir)} ({reason}); "
            + ("none was written before" if good is None else f"the last whole one is of step {good}")
            + ". Mend that (room, permissions), then run the same command again to go on from there."
        )

    def restore(self, abstract_state: TrainState, step: int) -> TrainState:
        """The state of `step`, laid out as the shapes and shardings of `abstract_state` say."""
        ema, train = _split(abstract_state)
        self._folder.renew()
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(ema=ocp.args.StandardRestore(ema), train=ocp.args.StandardRestore(train)),
        )
        return TrainState(**restored["ema"], **restored["train"])


def _chain(error: BaseException | None) -> list[BaseException]:
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def read_meta(workdir: str, step: int | None = None) -> tuple[int, dict[str, Any]]:
    """(step, meta) of a checkpoint whose averaged weights are sound: the newest by default.

    Damaged ones after it are named in a warning. With several processes, all must call this.

    Raises:
      FileNotFoundError: there is none.
      DamagedCheckpointError: it is damaged, or all are.
      ValueError: a newer release wrote it.
    """
    found = decided_by_first(lambda: _checked_step(workdir, step))
    return found, parse_meta(directory(workdir) / str(found))


def _checked_step(workdir: str, step: int | None) -> int:
    items, damaged = ("ema", "meta"), {}
    if step is None:
        found, damaged = _newest_sound(workdir, items)
    else:
        found = step if step in saved_steps(workdir) else None
        if found is not None and (wrong := damage(workdir, step, items)):
            raise DamagedCheckpointError(f"checkpoint {directory(workdir) / str(step)} is damaged: {wrong}")
    for number, wrong in damaged.items():
        logging.warning("checkpoint %d of %s is damaged (%s): using %d instead", number, workdir, wrong, found)
    if found is None:
        which = "checkpoint" if step is None else f"checkpoint of step {step}"
        raise FileNotFoundError(
            f"{workdir} holds no {which}: train first with python -m soda_jax.main --config=... --workdir={workdir}"
        )
    return found


def load_ema(workdir: str, step: int, abstract_variables: dict[str, Any]) -> dict[str, Any]:
    """The averaged `params` and `batch_stats` of a checkpoint, shaped and placed as `abstract_variables`."""
    target = {f"ema_{name}": value for name, value in abstract_variables.items()}
    with plain_path(directory(workdir) / str(step) / "ema") as path, ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(path, target)
    return {name.removeprefix("ema_"): value for name, value in restored.items()}
