"""Runs a table of the paper, or of your own: rows by columns, repeated over seeds, with a verdict on each claim.

    python -m soda_jax.tools.study --study=modulation --workdir=DIR --plan
    python -m soda_jax.tools.study --study=modulation --workdir=DIR [--jobs=N] [--only=ROW,...]

--study is the name of one of the package's studies, or a Python file with a function get_study. Each run is an ordinary
workdir, DIR/ROW/seedS. The same command goes on where it was stopped, and any number of them may share DIR. The result
is DIR/study.json and one page, DIR/study.html and DIR/study.md. --config.FIELD=VALUE sets a field of every row, as the
data's place, --config.data.root=DIR. docs/studies.md says more.
"""

import argparse
import pathlib
import signal
import sys
from collections.abc import Callable, Sequence

import jax
from absl import logging

from soda_jax.paths import run_folder
from soda_jax.reporting import study_page
from soda_jax.studies import catalogue, fairness, folder, planning, results
from soda_jax.studies.definition import Study
from soda_jax.studies.running import LOCKS, Outcome, Runner
from soda_jax.studies.runs import Run, make_runs
from soda_jax.workdir.lock import folder_lock

_STOPPED = 128 + signal.SIGTERM  # what a launcher takes for "queue it again"
_SHARE_PATIENCE = 60.0  # seconds for another runner to write its results


def main(argv: Sequence[str] | None = None) -> None:
    options = _options(argv)
    logging.set_verbosity(logging.WARNING)
    jax.config.update("jax_platforms", "cpu")  # of this process alone: the devices are for the runs
    try:
        code = _act(options)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    sys.exit(code)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--study", required=True, help=f"{', '.join(catalogue.STUDIES)}, or a file with get_study")
    parser.add_argument("--workdir", required=True, help="folder of the study")
    parser.add_argument("--size", default="cpu", help="cpu, gpu, paper, or a size of your study's own (default: cpu)")
    parser.add_argument("--seeds", type=int, default=0, help="repetitions (default: what the size says)")
    parser.add_argument("--only", default="", help="rows to run, with commas between; the others stay as they are")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--gpus", default="", help="as 0,1,2,3: each job gets one of them")
    parser.add_argument("--plan", action="store_true", help="measure what it will take, and train nothing")
    parser.add_argument("--plan_steps", type=int, default=planning.STEPS, help="steps of each row that --plan measures")
    parser.add_argument(
        "--checkpoint", default="", help="of a study on one checkpoint: a run's folder or what soda_jax.load takes"
    )
    parser.add_argument("--discard", action="store_true", help="remove what another definition left, and run it again")
    parser.add_argument("--page", action="store_true", help="write study.json and the page of what is there, and end")
    parser.add_argument("--publish", default="", help="folder for the page, its pictures and figures, to hand on")
    options, rest = parser.parse_known_args(argv)
    wrong = [argument for argument in rest if not (argument.startswith("--config.") and "=" in argument)]
    if wrong:
        parser.error(f"unexpected arguments: {' '.join(wrong)} (fields of all rows are --config.FIELD=VALUE)")
    for name in ("seeds", "jobs", "plan_steps"):
        if getattr(options, name) < (0 if name == "seeds" else 1):
            parser.error(f"--{name}={getattr(options, name)}: give a positive number")
    options.given = rest
    return options


def _act(options: argparse.Namespace) -> int:
    """Does what the options ask for; returns the exit code."""
    study = catalogue.find(options.study)
    size = study.size(options.size)
    place = pathlib.Path(run_folder(options.workdir, "--workdir"))
    runs = make_runs(study, size, place, options.given, seeds=options.seeds, checkpoint=options.checkpoint)
    fairness.check(runs)
    chosen = _chosen(study, runs, options.only)
    for line in folder.open_folder(place, study, options.size, runs, throw_away=options.discard):
        print(line)
    if options.plan:
        return _plan(options, place, runs, chosen)

    def write() -> None:
        with folder_lock(str(place / LOCKS / "results"), _SHARE_PATIENCE):
            counted = folder.parameters(place, runs)
            record = results.collect(study, options.size, runs, counted, folder.digest(runs))
            results.write(place, record)
            study_page.write(place, record)
            if options.publish:
                print(f"written to {study_page.publish(place, record, pathlib.Path(options.publish))}")

    if options.page:
        write()
        print(f"written to {place / results.FILE}, {place / study_page.HTML} and {place / study_page.MARKDOWN}")
        return 0
    runner = Runner(
        place,
        chosen,
        jobs=options.jobs,
        gpus=_gpus(options),
        tell=_tell,
        after=write,
        expected=planning.expected(place),
    )
    _on_signals(runner.stop)
    outcome = runner.run()
    write()
    _report(place, outcome)
    return _STOPPED if outcome.stopped else 1 if outcome.failed else 0


def _chosen(study: Study, runs: Sequence[Run], only: str) -> list[Run]:
    """The runs of the rows that --only names, by name or by folder, and of the rows whose checkpoints these measure."""
    if not only:
        return list(runs)
    known = {key.casefold(): row for row in study.rows for key in (row.folder, row.name)}
    asked = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := [name for name in asked if name.casefold() not in known]:
        names = ", ".join(row.name for row in study.rows)
        raise ValueError(f"--only={only}: no row is called {', '.join(unknown)}; they are {names}")
    rows = [known[name.casefold()] for name in asked]
    names = {row.name for row in rows} | {row.checkpoint_of for row in rows}
    return [run for run in runs if run.row.name in names]


def _gpus(options: argparse.Namespace) -> list[str]:
    return [name.strip() for name in options.gpus.split(",") if name.strip()]


def _tell(line: str) -> None:
    print(line, flush=True)


def _on_signals(stop: Callable[[], None]) -> None:
    """Ctrl-C and SIGTERM end the programs, which save, and start no other."""

    def handle(number: int, frame: object) -> None:
        _tell(f"{signal.Signals(number).name}: the runs save and end")
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def _plan(options: argparse.Namespace, place: pathlib.Path, runs: Sequence[Run], chosen: Sequence[Run]) -> int:
    costs, failed, stopped = planning.measure(
        place,
        chosen,
        steps=options.plan_steps,
        gpus=_gpus(options),
        tell=_tell,
        started=lambda runner: _on_signals(runner.stop),
    )
    if stopped:
        return _STOPPED
    print(f"\n{planning.table(chosen, costs, folder.parameters(place, runs), options.jobs)}")
    return 1 if failed else 0


def _report(place: pathlib.Path, outcome: Outcome) -> None:
    """Says what became of the runs, and where the results are."""
    print(f"\n{len(outcome.done)} runs done" + (", stopped; the same command goes on" if outcome.stopped else ""))
    if outcome.elsewhere:
        print(f"other runners have {'; '.join(outcome.elsewhere)}: the last of them writes the whole table")
    if outcome.left and not outcome.stopped:
        print(f"not tried, as the checkpoints that they measure are missing: {'; '.join(outcome.left)}")
    for name in outcome.failed:
        print(f"FAILED: {name}")
    print(f"written to {place / results.FILE}, {place / study_page.HTML} and {place / study_page.MARKDOWN}")


if __name__ == "__main__":
    main()
