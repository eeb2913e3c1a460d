"""What was trained, on what and for how long, in words."""

import os
import re
import statistics
from typing import Any

from soda_jax.config import variants
from soda_jax.models.capabilities import LATENT, SOURCE
from soda_jax.models.families import FAMILIES
from soda_jax.reporting.comparison import millions
from soda_jax.reporting.workdir import RunData

Fact = tuple[str, str, str]  # heading, value, detail


def facts(data: RunData, flat: dict[str, Any], title: str) -> list[Fact]:
    """The page's summary; what nothing recorded says so."""
    found: list[Fact] = [("Dataset", title or flat.get("data.name", "not recorded"), _splits(flat))]
    if flat:
        found += [*_variant(flat), _model(flat), *_origin(data.sessions), _trained(data, flat)]
    if data.best is not None:
        found.append(_best(data))
    found += [_hardware(data.sessions), _duration(data, flat)]
    rates = [value for _, value in data.curves.get("images_per_second", [])]
    if rates:
        found.append(("Images per second", f"{statistics.median(rates):,.0f}", "median while training"))
    found.append(_revision(data.sessions))
    return found


def _splits(flat: dict[str, Any]) -> str:
    if not flat:
        return ""
    tested = flat.get("data.test_split") or flat["data.eval_split"]
    watched = f"watched on {flat['data.eval_split']}, " if tested != flat["data.eval_split"] else ""
    return f"{flat['data.train_split']}, {watched}measured on {tested}"


def _variant(flat: dict[str, Any]) -> list[Fact]:
    """The paper's variant that the run was asked to be, and what it has instead of the variant's own values."""
    name = flat.get("variant", "")
    if not name:
        return []
    try:
        fields = variants.find(name).fields
    except ValueError:  # a name of the user's own, or of another release
        fields = {}
    other = [f"{field} {flat.get(field)}" for field, value in fields.items() if flat.get(field) != value]
    return [("Variant", name, f"but with {', '.join(other)}" if other else "")]


def _model(flat: dict[str, Any]) -> Fact:
    source, target = flat["data.source_resolution"], flat["data.resolution"]
    family = FAMILIES.get(flat.get("model.family", "soda"))
    title = family.title if family is not None else flat["model.family"]
    if family is not None and SOURCE not in family.capabilities:
        return "Model", title, f"{target} px images"
    detail = f"{target} px targets from {source} px sources"
    if family is not None and LATENT not in family.capabilities:
        return "Model", title, detail
    detail += f", {flat['model.modulation.kind'].replace('_', ' ')} modulation"
    return "Model", f"{title}, {flat['model.encoder.name']}, latent {flat['model.latent_dim']:,}", detail


def _origin(sessions: list[dict[str, Any]]) -> list[Fact]:
    """Where the first weights came from, if from another model; of a folder its name alone, as cards travel."""
    record = next((session["init_from"] for session in sessions if isinstance(session.get("init_from"), dict)), {})
    place, step, digest = record.get("place"), record.get("step"), record.get("weights_digest")
    if not isinstance(place, str) or not isinstance(step, int):
        return []
    name = os.path.basename(place) if os.path.isabs(place) else re.split(r"[?#]", place)[0]
    return [("Started from", f"{name} at step {step:,}", f"weights {digest[:12]}" if isinstance(digest, str) else "")]


def _trained(data: RunData, flat: dict[str, Any]) -> Fact:
    batch, planned = flat["train.batch_size"], flat["train.num_steps"]
    images = f"x batch {batch:,} = {millions(data.step * batch)} images"
    return "Trained", f"{data.step:,} steps", images + (f"; {planned:,} steps planned" if planned > data.step else "")


def _best(data: RunData) -> Fact:
    metric, value, split = data.best["metric"], data.best["value"], data.config.get("data", {}).get("eval_split")
    measured = f"{metric} {value:.4g}" + (f" on {split}" if split else "")
    reason = data.sessions[-1].get("reason") if data.sessions else None
    return "Best step", f"{data.best['step']:,}", measured + (f"; ended: {reason}" if reason else "")


def machine(hardware: dict[str, Any]) -> str:
    """Hardware as `provenance.hardware` gives it, in words."""
    platform, kind = str(hardware.get("platform", "")), str(hardware.get("device_kind", ""))
    count, cores = hardware.get("device_count", 1), hardware.get("cpu_count")
    if platform != "cpu":
        hosts = hardware.get("process_count", 1)
        return f"{count} x {kind or platform}" + (f" on {hosts} hosts" if hosts > 1 else "")
    model = hardware.get("cpu") or "CPU"
    return f"{model}, {cores} cores" if cores else str(model)


def _hardware(sessions: list[dict[str, Any]]) -> Fact:
    names = list(
        dict.fromkeys(machine(session["hardware"]) for session in sessions if isinstance(session.get("hardware"), dict))
    )
    if not names:
        return "Hardware", "not recorded", "the run is older than run.json"
    detail = f"earlier: {'; '.join(names[:-1])}" if len(names) > 1 else ""
    hardware = sessions[-1].get("hardware") or {}
    if not detail and hardware.get("platform") == "cpu" and hardware.get("device_count", 1) > 1:
        detail = f"as {hardware['device_count']} devices"
    return "Hardware", names[-1], detail


def _duration(data: RunData, flat: dict[str, Any]) -> Fact:
    seconds = sum(float(session.get("seconds") or 0) for session in data.sessions)
    if seconds:
        starts = len(data.sessions)
        detail = "compilation and evaluations included" + (f", in {starts} starts" if starts > 1 else "")
        return "Duration", duration(seconds), detail
    points, previous = data.curves.get("images_per_second", []), 0
    for step, rate in points:
        seconds += (step - previous) * flat.get("train.batch_size", 0) / max(rate, 1e-9)
        previous = step
    if not seconds:
        return "Duration", "not recorded", ""
    return "Duration", f"about {duration(seconds)}", "steps alone, by their images per second; the run has no run.json"


def duration(seconds: float) -> str:
    """Seconds as "42 s", "17 min", "3 h 05 min" or "2 d 4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def revision(git: dict[str, Any] | None) -> str:
    """A git revision as `provenance.git_revision` gives it, shortened; "" for none."""
    if not isinstance(git, dict) or not git.get("revision"):
        return ""
    return str(git["revision"])[:12] + (" + changes" if git.get("modified") else "")


def _revision(sessions: list[dict[str, Any]]) -> Fact:
    found = [revision(session.get("git")) for session in sessions]
    named = list(dict.fromkeys(text for text in found if text))
    versions = sessions[-1].get("versions") if sessions else None
    detail = f"soda_jax {versions.get('soda_jax')}, jax {versions.get('jax')}" if isinstance(versions, dict) else ""
    if not named:
        return "Git revision", "not recorded", detail
    earlier = f"; earlier {', '.join(named[:-1])}" if len(named) > 1 else ""
    return "Git revision", named[-1], detail + earlier


def session_rows(sessions: list[dict[str, Any]]) -> list[dict[str, str]]:
    """One row for each start of training."""
    rows = []
    for session in sessions:
        started = str(session.get("started", "")).replace("T", " ").removesuffix("+00:00")
        rows.append(
            {
                "started (UTC)": started,
                "steps": f"{session.get('first_step', 0):,} to {session.get('last_step', 0):,}",
                "duration": duration(float(session.get("seconds") or 0)),
                "finished": "yes" if session.get("finished") else "no",
                "hardware": machine(session.get("hardware") or {}),
                "git revision": revision(session.get("git")) or "not in a checkout",
            }
        )
    return rows
