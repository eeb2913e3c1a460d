"""Starts training runs as the command line does, for the fault drill: small ones, killed and watched from outside."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import soda_jax
from soda_jax.workdir.checkpoint import WRITING_PATTERN, directory, latest_step, read_arrays

ROOT = pathlib.Path(soda_jax.__file__).resolve().parents[1]
# Of any config, so that a start takes seconds and a step milliseconds.
SETTINGS: Mapping[str, Any] = {
    "train.batch_size": 4,
    "train.log_every": 10,
    "train.eval_every": 1_000_000,
    "train.checkpoint_every": 5,
    "train.keep_every": 1_000_000,
    "model.latent_dim": 16,
    "model.denoiser.channels": 8,
    "model.denoiser.multipliers": (1,),
    "model.denoiser.num_res_blocks": 1,
    "model.denoiser.attention_resolutions": (),
    "model.denoiser.head_dim": 8,
    "model.denoiser.time_dim": 16,
    "model.denoiser.norm_groups": 1,
    "eval.batch_size": 4,
    "eval.num_examples": 4,
    "sampling.num_steps": 2,
    "sampling.num_images": 2,
    "sampling.batch_size": 2,
}
RUN_SECONDS = 1800.0  # for any single run


class DrillError(RuntimeError):
    """A run did what it must never do; the message says what, and where its output is."""


@dataclasses.dataclass
class Launcher:
    """Starts `python -m soda_jax.main --mode=train` on a config made small by `SETTINGS`.

    Attributes:
      config: the value of --config.
      folder: where workdirs and the runs' output go.
    """

    config: str
    folder: pathlib.Path
    started: list["Process"] = dataclasses.field(default_factory=list)

    def start(self, name: str, steps: int, processes: int = 1) -> list["Process"]:
        """A run of `steps` in the workdir `name`, in one process or several; it has no terminal to wait for."""
        settings = {**SETTINGS, "data.root": str(self.folder / "data"), "train.num_steps": steps}
        command = [sys.executable, "-m", "soda_jax.main", f"--config={self.config}", "--cpu_devices=1"]
        command += [f"--workdir={self.folder / name}", *(f"--config.{key}={value}" for key, value in settings.items())]
        several: list[list[str]] = [[]]
        if processes > 1:
            address = f"--coordinator_address=localhost:{_free_port()}"
            several = [[address, f"--num_processes={processes}", f"--process_id={i}"] for i in range(processes)]
        return [self._start(command + more) for more in several]

    def _start(self, command: list[str]) -> "Process":
        log = self.folder / "logs" / f"{len(self.started) + 1:03d}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # of steps so small, compiling is what takes time
        }
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with open(log, "wb") as output:
            popen = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.started.append(Process(popen, log))
        return self.started[-1]

    def kill_all(self) -> None:
        """Leaves no run behind."""
        for process in self.started:
            if process.running():
                process.kill()

    def finish(self, name: str, steps: int, processes: int = 1) -> float:
        """Runs to the end; returns the seconds it took."""
        begin = time.monotonic()
        for process in self.start(name, steps, processes):
            process.must_end_well()
        return time.monotonic() - begin

    def lend_cache(self, giver: str, taker: str) -> None:
        """Copies compiled programs, which changes no number and saves the time to compile.

        Where the environment names one place for the programs of all runs (JAX_COMPILATION_CACHE_DIR), none stand here.
        """
        programs = self.folder / giver / "compilation_cache"
        if programs.exists():
            shutil.copytree(programs, self.folder / taker / "compilation_cache")


@dataclasses.dataclass
class Process:
    """A started process and the file that its output goes to."""

    popen: subprocess.Popen
    log: pathlib.Path

    def running(self) -> bool:
        return self.popen.poll() is None

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()

    def must_end_well(self, seconds: float = RUN_SECONDS) -> None:
        """Waits for the end; an exit code but 0, or no end, is an error."""
        try:
            code = self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DrillError(f"a run did not end in {seconds:.0f} s; its output is in {self.log}") from None
        if code:
            end = self.log.read_text(errors="replace")[-2000:]
            raise DrillError(f"a run ended with exit code {code}; its output is in {self.log}:\n{end}")


def wait_until(condition: Callable[[], Any], process: Process, seconds: float = RUN_SECONDS) -> bool:
    """Whether `condition` came true before the process ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        if not process.running():
            return bool(condition())
        time.sleep(0.002)
    raise DrillError(f"nothing happened for {seconds:.0f} s; the run's output is in {process.log}")


def newest(workdir: pathlib.Path) -> int:
    """The newest checkpoint's step; 0 where there is none."""
    return latest_step(str(workdir)) or 0


def being_written(workdir: pathlib.Path, since: float) -> bool:
    """Whether a checkpoint is being written, or was when the process died, by a process that began at `since`.

    Of what earlier kills left behind the files are older, and a start that clears it away makes none.
    """
    for folder in directory(str(workdir)).glob(WRITING_PATTERN):
        for path, _, files in os.walk(folder):  # which passes over what vanishes meanwhile
            for name in files:
                try:
                    if os.stat(os.path.join(path, name)).st_mtime >= since:
                        return True
                except FileNotFoundError:
                    pass
    return False


def difference(workdir: pathlib.Path, reference: pathlib.Path, curves: bool = True) -> str | None:
    """What sets two runs apart in the newest checkpoint and, with `curves`, in the metrics; None if nothing does."""
    step = newest(reference)
    if newest(workdir) != step:
        return f"{workdir} ends at step {newest(workdir)}, {reference} at {step}"
    found, expected = (read_arrays(str(path), step) for path in (workdir, reference))
    if found.keys() != expected.keys():
        return f"other arrays: {sorted(found.keys() ^ expected.keys())[:3]}"
    different = [name for name in expected if not same_bits(found[name], expected[name])]
    if different:
        return f"{len(different)} of {len(expected)} arrays differ, {different[0]} first"
    same = not curves or _curves(workdir) == _curves(reference)
    return None if same else "metrics.jsonl differs"


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


def _curves(workdir: pathlib.Path) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
