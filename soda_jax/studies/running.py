"""Runs of a study as programs of their own: each trains, is measured, and can be killed and taken up again.

Any number of runners may share a study's folder: a lock for each run, which the kernel takes from a runner that dies,
gives the run to one of them.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from soda_jax.reporting.facts import duration
from soda_jax.studies.runs import Run, read_marker, write_marker
from soda_jax.workdir.lock import LOCK_FILE, WorkdirInUseError, folder_lock
from soda_jax.workdir.run_record import is_finished, read_sessions

PROGRAM = (sys.executable, "-m", "soda_jax.main")
LOCKS = "locks"  # in the study's folder
CACHE = "compilation_cache"
LOG = "study.log"  # in each run's folder: what its programs said
TRAIN, MEASURE, DRAW = "train", "evaluate", "sample"
_WORDS = {TRAIN: "training", MEASURE: "measuring", DRAW: "drawing"}
_LAST_LINES = 12  # of a program that failed
_POLL = 0.2  # seconds


class RunFailedError(RuntimeError):
    """A run's program ended with an error."""


class StoppedError(RuntimeError):
    """The runner was asked to stop."""


@dataclasses.dataclass
class Outcome:
    """What became of the runs, by name.

    Attributes:
      done: trained and measured, now or before.
      failed: with the last lines of what they said.
      elsewhere: another runner has them.
      left: not tried, as the runner was stopped or what they need is missing.
      stopped: whether the runner was asked to stop.
    """

    done: list[str] = dataclasses.field(default_factory=list)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    elsewhere: list[str] = dataclasses.field(default_factory=list)
    left: list[str] = dataclasses.field(default_factory=list)
    stopped: bool = False


class Runner:
    """Brings runs to their end, `jobs` at a time.

    Args:
      folder: of the study.
      runs: what to do, in this order.
      jobs: programs at a time.
      gpus: each job gets one of them, by CUDA_VISIBLE_DEVICES; none: all jobs see all devices.
      program: in place of `soda_jax.main`, for tests.
      tell: takes each line of progress.
      after: called after each run that comes to its end.
      expected: seconds that a run of each row takes, where they were measured before (`planning.py`).
    """

    def __init__(
        self,
        folder: pathlib.Path,
        runs: Sequence[Run],
        *,
        jobs: int = 1,
        gpus: Sequence[str] = (),
        program: Sequence[str] = PROGRAM,
        tell: Callable[[str], None] = print,
        after: Callable[[], None] = lambda: None,
        expected: Mapping[str, float] | None = None,
    ):
        self._folder, self._runs, self._jobs, self._gpus = folder, list(runs), max(jobs, 1), list(gpus)
        self._program, self._tell, self._after = tuple(program), tell, after
        self._waiting = [run for run in self._runs if not run.is_done]
        self._outcome = Outcome(done=[run.name for run in self._runs if run not in self._waiting])
        self._condition = threading.Condition()
        self._active: dict[str, Run] = {}
        self._stop = threading.Event()
        self._clock = _Clock(self._runs, expected or {})

    def stop(self) -> None:
        """Ends the programs, which save, and starts no other."""
        self._stop.set()

    def run(self) -> Outcome:
        """Works until nothing is left that this runner can do."""
        if self._outcome.done:
            self._tell(f"{len(self._outcome.done)} of {len(self._runs)} runs are done already")
        jobs = min(self._jobs, max(len(self._waiting), 1))  # no core is kept for a job that has nothing to do
        workers = [threading.Thread(target=self._work, args=(number, jobs), daemon=True) for number in range(jobs)]
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():  # a join without end would hold back signals
                worker.join(_POLL)
        self._outcome.left = [run.name for run in self._waiting]
        self._outcome.stopped = self._stop.is_set()
        return self._outcome

    def _work(self, number: int, jobs: int) -> None:
        environment = dict(os.environ)
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(self._folder / CACHE))
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[number % len(self._gpus)]
        _keep_to_share(number, jobs)
        while (run := self._next()) is not None:
            try:
                self._bring_to_end(run, environment)
            finally:
                with self._condition:
                    self._active.pop(run.name, None)
                    self._condition.notify_all()

    def _next(self) -> Run | None:
        """The next run that can start; waits for one that another job has to train first."""
        with self._condition:
            while not self._stop.is_set():
                ready = next((run for run in self._waiting if run.source is None or run.is_trained), None)
                if ready is not None:
                    self._waiting.remove(ready)
                    self._active[ready.name] = ready
                    return ready
                if not self._waiting or not self._active:
                    return None
                self._condition.wait(_POLL)
        return None

    def _bring_to_end(self, run: Run, environment: Mapping[str, str]) -> None:
        begin = time.monotonic()
        try:
            with claimed(self._folder, run):
                if not run.is_done:  # else another runner was quicker
                    self._do(run, environment)
        except WorkdirInUseError:
            self._outcome.elsewhere.append(run.name)
            self._tell(f"{run.name}: another runner has it")
            return
        except StoppedError:
            with self._condition:
                self._waiting.append(run)
            return
        except (RunFailedError, OSError) as error:
            self._outcome.failed[run.name] = str(error)
            self._tell(f"{run.name}: FAILED; {run.folder / LOG} has all of it\n{error}")
            return
        seconds = time.monotonic() - begin
        self._clock.took(run, seconds)
        self._outcome.done.append(run.name)
        self._tell(f"{run.name}: done in {duration(seconds)}; {self._progress(run)}")
        try:
            self._after()
        except Exception as error:  # the runs matter more; the results are written once more at the end
            self._tell(f"the results could not be written yet ({type(error).__name__}: {error})")

    def _progress(self, ended: Run | None = None) -> str:
        """How many runs are done, and the time that the others take, those in progress counted whole."""
        done, total = len(self._outcome.done), len(self._runs)
        with self._condition:
            active = [run for run in self._active.values() if run is not ended]
            left = self._clock.left([*self._waiting, *active], self._jobs)
        return f"{done} of {total}" + (f", about {duration(left)} left" if left else "")

    def _do(self, run: Run, environment: Mapping[str, str]) -> None:
        marker = read_marker(run.folder) | {
            "row": run.row.name,
            "seed": run.seed,
            "arguments": list(run.arguments),
            "trained_as": run.trained_as,
            "measured_as": None,
        }
        write_marker(run.folder, marker)
        seconds: dict[str, float] = dict(marker.get("seconds") or {})
        if run.source is None:
            if not is_finished(str(run.folder)):
                origin = (f"--init_from={run.init_from}",) if run.init_from else ()
                self._stage(run, TRAIN, environment, origin)
                if not is_finished(str(run.folder)):
                    raise RunFailedError("training ended before its last step, and says so nowhere")
            seconds[TRAIN] = sum(float(session.get("seconds") or 0) for session in read_sessions(str(run.folder)))
        else:
            _link(run)
        seconds[MEASURE] = self._stage(run, MEASURE, environment)
        if run.source is not None:
            seconds[DRAW] = self._stage(run, DRAW, environment)
        write_marker(run.folder, marker | {"measured_as": run.measured_as, "seconds": seconds})

    def _stage(self, run: Run, mode: str, environment: Mapping[str, str], more: Iterable[str] = ()) -> float:
        """Runs one mode of the program; returns the seconds that it took."""
        if self._stop.is_set():
            raise StoppedError
        self._tell(f"{run.name}: {_WORDS[mode]} ({self._progress()})")
        command = [*self._program, *run.arguments, *more, f"--workdir={run.folder}", f"--mode={mode}"]
        begin, log = time.monotonic(), run.folder / LOG
        with log.open("ab") as output:
            output.write(f"\n$ {' '.join(command)}\n".encode())
            output.flush()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
            )  # a session of its own: Ctrl-C reaches the runner alone, which hands it on once
            code = self._waited(process)
        if self._stop.is_set() and (code != 0 or (mode == TRAIN and not is_finished(str(run.folder)))):
            raise StoppedError
        if code != 0:
            raise RunFailedError(f"--mode={mode} ended with code {code}:\n{_last_lines(log)}")
        return time.monotonic() - begin

    def _waited(self, process: subprocess.Popen) -> int:
        asked = False
        while process.poll() is None:
            if self._stop.wait(_POLL) and not asked:
                asked = True
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
            elif asked:
                time.sleep(_POLL)
        return process.returncode


@contextlib.contextmanager
def claimed(folder: pathlib.Path, run: Run) -> Iterator[None]:
    """Holds a run for this runner.

    Raises:
      WorkdirInUseError: another runner has it, or a program of a runner that was killed still trains it.
    """
    with folder_lock(str(folder / LOCKS / run.row.folder / f"seed{run.seed}")):
        if (run.folder / LOCK_FILE).exists():
            with folder_lock(str(run.folder)):
                pass
        yield


def _keep_to_share(number: int, jobs: int) -> None:
    """Leaves this thread, and so the programs that it starts, the cores of one job among `jobs`: programs that share
    all cores wait for each other's threads."""
    if jobs > 1 and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) >= jobs:
            # 0: this thread alone. A core's two hardware threads, mostly numbered half of all apart, stay together.
            os.sched_setaffinity(0, cores[number::jobs])


def _link(run: Run) -> None:
    """Gives a run the checkpoints of its source, as its own."""
    link = run.folder / "checkpoints"
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(run.source / "checkpoints", run.folder), target_is_directory=True)


def _last_lines(log: pathlib.Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.splitlines()]  # a progress bar is one long line
    return "\n".join(f"  {line}" for line in [line for line in lines if line][-_LAST_LINES:])


class _Clock:
    """How long runs take: by those of the row that are done, by what was expected, by those of other rows."""

    def __init__(self, runs: Sequence[Run], expected: Mapping[str, float]):
        self._expected = expected
        self._took: dict[str, list[float]] = {}
        for run in runs:
            seconds = read_marker(run.folder).get("seconds") or {}
            if run.is_done and seconds:
                self.took(run, sum(seconds.values()))

    def took(self, run: Run, seconds: float) -> None:
        self._took.setdefault(run.row.name, []).append(seconds)

    def left(self, runs: Sequence[Run], jobs: int) -> float:
        """Seconds that `runs` will take; 0 where nothing is known."""
        known = [seconds for row in list(self._took.values()) for seconds in row] or list(self._expected.values())
        if not known:
            return 0.0
        total = sum(self._one(run.row.name, known) for run in runs)
        return total / min(jobs, max(len(runs), 1))

    def _one(self, row: str, known: Sequence[float]) -> float:
        if row in self._took:
            return statistics.fmean(self._took[row])
        return self._expected.get(row) or statistics.fmean(known)


def discard(folder: pathlib.Path, run: Run) -> str:
    """Removes what another definition left in a run's folder; returns what that was, in words.

    Figures are removed where only these no longer fit, and the whole folder where the training does not.

    Raises:
      WorkdirInUseError: a runner has the run.
    """
    with claimed(folder, run):
        if run.misfit() == "figures":
            for path in run.folder.glob("evaluation_*.json"):
                path.unlink()
            write_marker(run.folder, read_marker(run.folder) | {"measured_as": None})
            return "its figures"
        shutil.rmtree(run.folder)
        return "all of it"
