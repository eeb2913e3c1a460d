"""WORKDIR/run.json: what each start of a training run ran on, from which source, how far and for how long."""

import datetime
import json
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from soda_jax.workdir import provenance

FORMAT_VERSION = 1
FILE = "run.json"
LAST_STEP, NO_IMPROVEMENT = "last step", "no improvement"  # why a run ends


class RunRecord:
    """Adds one entry to WORKDIR/run.json, which `update` and `close` keep up to date.

    The file is {"format_version": 1, "num_steps": N, "monitor": METRIC, "patience": N, "sessions": [...]}: what was
    last asked for, and one session for each start of training in this workdir, with started (UTC), first_step,
    last_step (of the last save), seconds (that passed until then, compilation and evaluations included), finished
    (False while it runs, and for good where it was killed), reason ("last step" or "no improvement", once finished),
    hardware, git, versions, the config, and init_from, where the run's first weights came from, if from another model.

    Args:
      workdir: the run's folder.
      config: of this session.
      first_step: that it starts or resumes from.
      devices: that it computes on.
      active: False (processes other than the first) writes nothing.
      init_from: where the run's first weights came from, JSON data; None for new ones.
    """

    def __init__(
        self,
        workdir: str,
        config: ConfigDict,
        first_step: int,
        devices: Sequence[jax.Device] | None = None,
        active: bool = True,
        init_from: Mapping[str, Any] | None = None,
    ):
        self._active = active
        if not active:
            return
        self._path = pathlib.Path(workdir) / FILE
        self._begin = time.monotonic()
        self._session: dict[str, Any] = {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "first_step": first_step,
            "last_step": first_step,
            "seconds": 0.0,
            "finished": False,
            "hardware": provenance.hardware(devices),
            "git": provenance.git_revision(),
            "versions": provenance.versions(),
            "config": config.to_dict(),
        } | ({} if init_from is None else {"init_from": dict(init_from)})
        self._earlier = read_sessions(workdir)
        self._write()

    def update(self, step: int) -> None:
        """Notes that the run has come to `step`, and the time that it took."""
        if self._active:
            self._session |= {"last_step": step, "seconds": round(time.monotonic() - self._begin, 1)}
            self._write()

    def finish(self, step: int, reason: str = LAST_STEP) -> None:
        """Notes that the run came to its end, and why: `LAST_STEP` or `NO_IMPROVEMENT`."""
        if self._active:
            self._session |= {"finished": True, "reason": reason}
            self.update(step)

    def _write(self) -> None:
        _write(self._path, _length(self._session["config"]["train"]), [*self._earlier, self._session])


def ask_for_length(workdir: str, train: Mapping[str, Any]) -> None:
    """Notes, before anything that takes time, how long the run is to be: one that had ended may have to go on.

    Args:
      train: `config.train`, of which `num_steps`, `monitor` and `patience` count.
    """
    sessions = read_sessions(workdir)
    if sessions:
        _write(pathlib.Path(workdir) / FILE, _length(train), sessions)


def _length(train: Mapping[str, Any]) -> dict[str, Any]:
    return {"num_steps": train["num_steps"], "monitor": train["monitor"], "patience": train["patience"]}


def is_finished(workdir: str) -> bool:
    """Whether the last session of WORKDIR/run.json came to its end, and that is where the run was last asked to go.

    That is its last step, or the evaluation at which it had not improved for as long as it was to wait.
    """
    record, sessions = _read(workdir), read_sessions(workdir)
    if not sessions or sessions[-1].get("finished") is not True:
        return False
    wanted, reached = record.get("num_steps", 0), sessions[-1].get("last_step")
    if not isinstance(wanted, int) or not isinstance(reached, int):
        return False
    return reached >= wanted or (sessions[-1].get("reason") == NO_IMPROVEMENT and _as_patient(record, sessions[-1]))


def _as_patient(record: dict[str, Any], session: dict[str, Any]) -> bool:
    """Whether the run is now asked to watch what it watched in `session`, and to wait no longer."""
    try:
        before = session["config"]["train"]
        return record["monitor"] == before["monitor"] and 0 < record["patience"] <= before["patience"]
    except (KeyError, TypeError):
        return False


def _write(path: pathlib.Path, length: dict[str, Any], sessions: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"format_version": FORMAT_VERSION, **length, "sessions": sessions}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _read(workdir: str) -> dict[str, Any]:
    try:
        record = json.loads((pathlib.Path(workdir) / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def read_sessions(workdir: str) -> list[dict[str, Any]]:
    """The sessions of WORKDIR/run.json, oldest first; none where there is no such file or it cannot be read.

    A damaged record must not stop a run from resuming, so it counts as none.
    """
    sessions = _read(workdir).get("sessions")
    return [entry for entry in sessions if isinstance(entry, dict)] if isinstance(sessions, list) else []
