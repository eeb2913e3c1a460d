"""A study's folder: which definition its runs follow, and what in it no longer fits."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from soda_jax.studies import fairness
from soda_jax.studies.definition import Study
from soda_jax.studies.running import discard
from soda_jax.studies.runs import Run, read_marker

FILE = "definition.json"
FORMAT_VERSION = 1
_SHOWN = 3  # changed flags that a message names


def digest(runs: Sequence[Run]) -> str:
    """SHA-256 of everything that decides about the figures of `runs`."""
    return hashlib.sha256(json.dumps([[run.name, run.measured_as] for run in runs]).encode()).hexdigest()


def read(folder: pathlib.Path) -> dict[str, Any]:
    """What DIR/definition.json holds; {} where it is missing or damaged."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(folder: pathlib.Path, found: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{FILE}.{os.getpid()}.tmp"  # runners that share the folder write it at once
    temporary.write_text(json.dumps({"format_version": FORMAT_VERSION, **found}, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / FILE)


def open_folder(folder: pathlib.Path, study: Study, size: str, runs: Sequence[Run], *, throw_away: bool) -> list[str]:
    """Makes a study's folder, or checks that one fits the definition, and notes the definition in it.

    Args:
      runs: all of the study's.
      throw_away: removes what no longer fits.

    Returns:
      A line for each run of which something was removed.

    Raises:
      ValueError: it holds another study, or runs that no longer fit; each is named with what changed.
    """
    before = read(folder)
    if before and (before.get("study"), before.get("size")) != (study.name, size):
        raise ValueError(
            f"--workdir={folder} holds the study {before.get('study')} at size {before.get('size')}; use another folder"
        )
    misfits = [(run, kind) for run in runs if (kind := run.misfit())]
    foreign = [str(run.folder) for run, kind in misfits if kind == "unknown"]
    if foreign:
        raise ValueError(f"no study made what lies in {', '.join(foreign)}; move it away, or use another --workdir")
    if misfits and not throw_away:
        lines = "\n".join(f"  {run.name}: {_words(run, kind)}" for run, kind in misfits)
        raise ValueError(
            f"the definition of {study.name} has changed, and {len(misfits)} of {len(runs)} runs in {folder} no longer "
            f"fit:\n{lines}\nUse --discard to remove what no longer fits and run it again, or another --workdir."
        )
    removed = [f"{run.name}: removed {discard(folder, run)}" for run, _ in misfits]
    kept = {} if misfits else dict(before.get("parameters") or {})
    changed = before.get("digest") not in (None, digest(runs))
    _write(folder, {"study": study.name, "size": size, "digest": digest(runs), "parameters": {} if changed else kept})
    return removed


def _words(run: Run, kind: str) -> str:
    """What of a run no longer fits, and which of its flags changed."""
    what = "its training" if kind == "training" else "its figures, not its training"
    before = [flag for flag in read_marker(run.folder).get("arguments") or [] if isinstance(flag, str)]
    gone = [flag for flag in before if flag not in run.arguments]
    new = [flag for flag in run.arguments if flag not in before]
    if not gone and not new:
        return f"{what} (the config {run.arguments[0].partition('=')[2]} itself has changed)"
    told = [f"{name} {', '.join(flags[:_SHOWN])}" for name, flags in (("had", gone), ("now has", new)) if flags]
    return f"{what} ({'; '.join(told)})"


def parameters(folder: pathlib.Path, runs: Sequence[Run]) -> dict[str, int]:
    """How many parameters the model of each row has, counted once and kept in DIR/definition.json."""
    found = read(folder)
    known = dict(found.get("parameters") or {})
    missing = {run.row.name: run for run in runs if run.source is None and run.row.name not in known}
    if missing:
        known |= {name: fairness.parameters(run.config) for name, run in missing.items()}
        _write(folder, found | {"parameters": known})
    return known
