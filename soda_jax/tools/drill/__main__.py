"""Breaks small training runs in every way that is known, and checks that nothing is lost and nothing silently wrong.

    python -m soda_jax.tools.drill --kills=50 --corruptions=200

- **Kills**: `kill -9` at random moments, `--kills_in_writing` of them while a checkpoint is being written; the run is
  started again each time, and must end bit by bit as one that was never disturbed.
- **Corruptions**: damaged checkpoints (truncated, bits flipped, files missing, ...) must be detected, named and set
  aside, or be restored bit by bit all the same.
- **Stops**: SIGTERM on one process and on two must save, end with exit code 0 in time, and resume bit by bit.

Ends with exit code 1 if anything went wrong. It works on the CPU, in a temporary folder unless `--folder` is given.
"""

import collections
import dataclasses
import json
import pathlib
import random
import re
import signal
import sys
import tempfile
import time
from typing import Any

from absl import app, flags, logging
from tabulate import tabulate

from soda_jax.cli import find_config, load_config, parse_flags
from soda_jax.paths import output_file
from soda_jax.tools.drill import damage
from soda_jax.tools.drill.runs import (
    SETTINGS,
    DrillError,
    Launcher,
    being_written,
    difference,
    newest,
    wait_until,
)

EVERY = SETTINGS["train.checkpoint_every"]
STEPS_A_START = 4 * EVERY  # fewer than these a start comes forward before it is killed, and two checkpoints on average
STOPPED_STEPS = 12 * EVERY  # of the runs that are stopped by SIGTERM
GRACE_SECONDS = 30.0  # what Kubernetes and TPU preemption give by default


@dataclasses.dataclass
class Kill:
    """One kill: whether a checkpoint was being written, and the newest checkpoint before the start and after."""

    in_writing: bool
    before: int
    after: int


def kills(launcher: Launcher, count: int, in_writing: int, seed: int) -> dict[str, Any]:
    """Kills a run `count` times, `in_writing` of them during the writing of a checkpoint, then lets it end.

    Returns:
      Figures for the table; "difference" is None if the run ended as the undisturbed one.
    """
    rng = random.Random(seed)
    steps = 2 * EVERY * count + 2 * STEPS_A_START
    seconds = launcher.finish("undisturbed", steps)
    print(f"undisturbed: {steps} steps in {seconds:.0f} s", flush=True)
    launcher.lend_cache("undisturbed", "killed")
    workdir = launcher.folder / "killed"
    done: list[Kill] = []
    first_save = 10.0  # seconds from a start to its first checkpoint; measured as the drill goes on
    while len(done) < count or sum(kill.in_writing for kill in done) < in_writing:
        wanted = rng.random() < (in_writing - sum(kill.in_writing for kill in done)) / max(count - len(done), 1)
        kill, first_save = _kill_once(launcher, steps, wanted, first_save, rng)
        done.append(kill)
        print(f"kill {len(done)}: at step {kill.after}{', in writing' if kill.in_writing else ''}", flush=True)
    launcher.finish("killed", steps)
    return {
        "kills": len(done),
        "in writing": sum(kill.in_writing for kill in done),
        "before the first new checkpoint": sum(kill.after == kill.before for kill in done),
        "steps": steps,
        "difference": difference(workdir, launcher.folder / "undisturbed"),
    }


def _kill_once(
    launcher: Launcher, steps: int, in_writing: bool, first_save: float, rng: random.Random
) -> tuple[Kill, float]:
    """A start and its kill; (what it hit, the seconds to the first checkpoint, as far as it came to one)."""
    workdir = launcher.folder / "killed"
    before, since, begin = newest(workdir), time.time(), time.monotonic()
    (process,) = launcher.start("killed", steps)
    limit = min(before + STEPS_A_START - EVERY, steps - EVERY)
    if in_writing:
        # The first, second or third writing of this start, at a random moment of it.
        target = min(before + EVERY * rng.randrange(3), limit - EVERY)
        wait_until(lambda: newest(workdir) >= target and being_written(workdir, since), process)
        first_save = time.monotonic() - begin if target == before else first_save
        time.sleep(rng.uniform(0.0, 0.05))
    else:
        deadline = begin + rng.uniform(0.0, 1.5 * first_save)
        wait_until(lambda: time.monotonic() > deadline or newest(workdir) >= limit, process)
    if not process.running():
        process.must_end_well()
        raise DrillError(f"a run of {steps} steps ended before it was killed; its output is in {process.log}")
    process.kill()
    return Kill(being_written(workdir, since), before, newest(workdir)), first_save


def corruptions(launcher: Launcher, count: int, seed: int) -> tuple[list[list[Any]], bool]:
    """(a row for each kind of damage, whether all went well)."""
    outcomes = damage.corruptions(launcher.folder / "undisturbed", launcher.folder / "corrupted", count, seed)
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for outcome in outcomes:
        counts[outcome.kind][outcome.result if outcome.good else "wrong"] += 1
        if not outcome.good:
            print(f"WRONG: {outcome.kind} of {outcome.file}: {outcome.result}", flush=True)
    rows = [[kind, *(count[name] for name in ("detected", "harmless", "wrong"))] for kind, count in counts.items()]
    return rows, all(outcome.good for outcome in outcomes)


def stops(launcher: Launcher, processes: int, seed: int) -> dict[str, Any]:
    """Stops a run in `processes` by SIGTERM, once on one process and once on all, and lets it end."""
    rng = random.Random(seed + processes)
    whole, stopped = f"whole_{processes}", f"stopped_{processes}"
    launcher.finish(whole, STOPPED_STEPS, processes)
    launcher.lend_cache(whole, stopped)
    workdir, seconds = launcher.folder / stopped, []
    for number, hit_all in enumerate((False, True), start=1):
        started = launcher.start(stopped, STOPPED_STEPS, processes)
        target = EVERY * (4 * number - 2)
        wait_until(lambda target=target: newest(workdir) >= target, started[0])
        time.sleep(rng.uniform(0.0, 0.05))
        begin = time.monotonic()
        for process in started if hit_all else [rng.choice(started)]:
            process.popen.send_signal(signal.SIGTERM)
        for process in started:
            process.must_end_well(10 * GRACE_SECONDS)
        seconds.append(time.monotonic() - begin)
        said = re.search(r"SIGTERM: stopped after step (\d+)", started[0].log.read_text(errors="replace"))
        if said is None or int(said[1]) != newest(workdir):
            raise DrillError(f"SIGTERM: nothing was saved at the last step; the run's output is in {started[0].log}")
    launcher.finish(stopped, STOPPED_STEPS, processes)
    found = difference(workdir, launcher.folder / whole, curves=False)
    return {"processes": processes, "seconds": max(seconds), "difference": found}


def drill(launcher: Launcher, options: flags.FlagValues) -> dict[str, Any]:
    """All parts that `options` ask for; prints their tables. "passed" tells the outcome."""
    record: dict[str, Any] = {"passed": True}
    if options.kills or options.corruptions:
        found = kills(launcher, options.kills, min(options.kills_in_writing, options.kills), options.seed)
        record["kills"] = found
        record["passed"] &= found["difference"] is None
        outcome = found["difference"] or "bit by bit as the undisturbed run"
        print(tabulate([*list(found.items())[:-1], ("ended", outcome)], headers=["kill -9", ""]), "\n", flush=True)
    if options.corruptions:
        rows, good = corruptions(launcher, options.corruptions, options.seed)
        record["corruptions"] = [dict(zip(("kind", "detected", "harmless", "wrong"), row, strict=True)) for row in rows]
        record["passed"] &= good
        total = ["total", *(sum(row[column] for row in rows) for column in (1, 2, 3))]
        print(tabulate([*rows, total], headers=["corruption", "detected", "harmless", "wrong"]), "\n", flush=True)
    for processes in options.stops:
        found = stops(launcher, int(processes), options.seed)
        record.setdefault("stops", []).append(found)
        late = found["seconds"] > GRACE_SECONDS
        record["passed"] &= found["difference"] is None and not late
        outcome = found["difference"] or "bit by bit as the undisturbed run"
        print(f"SIGTERM on {processes} process(es): saved and ended in {found['seconds']:.1f} s; {outcome}", flush=True)
    return record


def define_flags(values: flags.FlagValues) -> None:
    options = {"flag_values": values}
    flags.DEFINE_string("config", "quickstart", "Config, by name or file, that is made small and run.", **options)
    flags.DEFINE_integer("kills", 50, "Number of kill -9.", 0, **options)
    flags.DEFINE_integer("kills_in_writing", 20, "How many of them while a checkpoint is being written.", 0, **options)
    flags.DEFINE_integer("corruptions", 200, "Number of damaged checkpoints.", 0, **options)
    flags.DEFINE_list("stops", ["1", "2"], "Numbers of processes for the runs stopped by SIGTERM.", **options)
    flags.DEFINE_integer("seed", 0, "Of every random choice.", 0, **options)
    flags.DEFINE_string("folder", None, "Where to work, and leave all behind; must be new.", **options)
    flags.DEFINE_string("json", None, "File to write the figures to.", **options)


def checked(value: str) -> str:
    """--config=`value` with its file's whole path, so that every run finds the same one; one line if it is wrong."""
    try:
        load_config(value)
    except ValueError as error:
        sys.exit(f"error: --config={value}: {error}")
    path, argument = find_config(value)
    return str(path) if argument is None else f"{path}:{argument}"


def run(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: unexpected arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: SIGTERM"))  # by way of `finally`, which ends the runs
    options = flags.FLAGS
    try:
        file = output_file(options.json, "--json") if options.json else None
    except ValueError as error:
        sys.exit(f"error: {error}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(options.folder or temporary).expanduser().resolve()
        if options.folder and folder.exists():
            sys.exit(f"error: --folder={options.folder}: exists already; name a new one")
        launcher = Launcher(checked(options.config), folder)
        try:
            record = drill(launcher, options)
        except DrillError as error:
            sys.exit(f"error: {error}")
        finally:
            launcher.kill_all()
    if file:
        pathlib.Path(file).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("passed" if record["passed"] else "FAILED")
    sys.exit(not record["passed"])


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(run, flags_parser=parse_flags)
