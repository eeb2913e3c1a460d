"""A comparison is fair where all rows cost the same: as many images seen, the same encoder."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from soda_jax.config import validate
from soda_jax.config.evaluators import impossible
from soda_jax.models.capabilities import LATENT
from soda_jax.models.families import FAMILIES
from soda_jax.performance.describe import counted_model
from soda_jax.reporting import recipes
from soda_jax.studies.runs import Run

# What an encoder is, as far as it costs; rates of learning and of dropping may be what a row is about.
ENCODER = ("name", "base_features", "small_stem", "norm", "patch_size")
# What two rows may differ in and still be the same.
NAMES = ("variant", "seed")


def images_seen(config: ConfigDict) -> int:
    """How many training examples a run of `config` sees."""
    return config.train.num_steps * config.train.batch_size


def check(runs: Sequence[Run]) -> None:
    """Raises ValueError where rows cost unlike, are the same, or have a config that cannot run."""
    problems: list[str] = []
    wrong: dict[str, list[str]] = {}  # rows by what is wrong with their configs
    first = [run for run in runs if run.seed == runs[0].seed]
    reference = first[0]
    kinds: dict[str, str] = {}
    for run in first:
        for line in _impossible(run.config):
            wrong.setdefault(line, []).append(run.row.name)
        same = kinds.setdefault(f"{run.measured_as}", run.row.name)
        if same != run.row.name:
            problems.append(f"rows {same!r} and {run.row.name!r} are one and the same config here; leave one out")
        if (seen := images_seen(run.config)) != (wanted := images_seen(reference.config)):
            problems.append(
                f"row {run.row.name!r} sees {seen:,} images and {reference.row.name!r} {wanted:,}; give all rows the "
                "same product of config.train.num_steps and config.train.batch_size"
            )
        ours, theirs = _encoder(run.config), _encoder(reference.config)
        if differing := [name for name in ours if name in theirs and ours[name] != theirs[name]]:
            told = ", ".join(f"config.model.{name}={ours[name]!r}, not {theirs[name]!r}" for name in differing)
            problems.append(f"row {run.row.name!r} has another encoder than {reference.row.name!r}: {told}")
    problems += [
        f"{line} ({', '.join(rows) if len(rows) < len(first) else 'all rows'})" for line, rows in wrong.items()
    ]
    if problems:
        raise ValueError("this study cannot be run:\n" + "\n".join(f"  {problem}" for problem in problems))


def _impossible(config: ConfigDict) -> list[str]:
    """What keeps a config from training, and its evaluators from measuring it."""
    try:
        validate(config)
    except ValueError as error:
        return [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
    return list(impossible(config))


def _encoder(config: ConfigDict) -> dict[str, Any]:
    """What is compared of an encoder; {} for a model that has none."""
    if LATENT not in FAMILIES[config.model.family].capabilities:
        return {}
    return {"latent_dim": config.model.latent_dim} | {f"encoder.{n}": config.model.encoder[n] for n in ENCODER}


def difference(run: Run, reference: Run) -> list[tuple[str, str, str]]:
    """(field, the reference's value, its own) of everything in which a row differs from the reference."""
    rows = recipes.differences(recipes.flatten(reference.config), recipes.flatten(run.config))
    return [row for row in rows if row[0] not in NAMES]


def parameters(config: ConfigDict) -> int:
    """How many parameters a run of `config` trains; no weight is allocated."""
    _, variables = counted_model(config)
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables["params"]))
