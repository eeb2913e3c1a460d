"""The runs of a study: one for each row and seed, each an ordinary workdir of its own."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from soda_jax.cli import define_config_flag, given_fields
from soda_jax.config import variants
from soda_jax.reporting import recipes
from soda_jax.studies.definition import Row, Size, Study
from soda_jax.workdir.run_record import is_finished

MARKER = "study_run.json"  # in each run's folder: which definition it was trained and measured by
FORMAT_VERSION = 1
# Equal images seen: no row may end before the others do.
COMMON_FLAGS = ("--config.train.patience=0",)
# Sections that say how a checkpoint is measured, and fields that change no figure.
MEASURING = ("eval", "sampling")
ELSEWHERE = (
    "variant",
    "data.root",
    "data.num_workers",
    "model.attention",
    "model.encoder.remat",
    "model.denoiser.remat",
    "eval.feature_memory_gib",
    "eval.inception_weights",
    "eval.lpips_weights",
)
# One step at a rate of 0 that leaves averages as they are: a given checkpoint, as a run's own.
FROM_CHECKPOINT = {
    "train.num_steps": 1,
    "train.ema_decay": 1.0,
    "train.ema_warmup": False,
    "optim.learning_rate": 0.0,
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One row with one seed.

    Attributes:
      row, seed: which.
      folder: its workdir, DIR/ROW/seedS.
      arguments: flags of `soda_jax.main`, without --mode and --workdir.
      config: what they mean.
      source: the workdir whose checkpoints it measures; None where it trains its own.
      init_from: where the weights that are measured come from, if not from training here; "" otherwise.
    """

    row: Row
    seed: int
    folder: pathlib.Path
    arguments: tuple[str, ...]
    config: ConfigDict
    source: pathlib.Path | None = None
    init_from: str = ""

    @property
    def name(self) -> str:
        return f"{self.row.name}, seed {self.seed}"

    @functools.cached_property
    def trained_as(self) -> str:
        """Digest of everything that decides about its weights."""
        flat = _flat(self.config)
        return _digest({k: v for k, v in flat.items() if k.split(".")[0] not in MEASURING}, self.init_from)

    @functools.cached_property
    def measured_as(self) -> str:
        """Digest of everything that decides about its figures."""
        return _digest(_flat(self.config), self.init_from)

    @property
    def is_trained(self) -> bool:
        return is_finished(str(self.source or self.folder))

    @property
    def is_done(self) -> bool:
        """Whether it is trained and measured by the present definition."""
        marker = read_marker(self.folder)
        measured = marker.get("measured_as") == self.measured_as and any(self.folder.glob("evaluation_*.json"))
        return measured and self.is_trained and self.misfit(marker) == ""

    def misfit(self, marker: Mapping[str, Any] | None = None) -> str:
        """What its folder holds that another definition made: "training", "figures", "unknown", or "" for nothing."""
        marker = read_marker(self.folder) if marker is None else marker
        if not marker:
            return "unknown" if self.folder.is_dir() and any(self.folder.iterdir()) else ""
        if marker.get("trained_as") != self.trained_as:
            return "training"
        return "figures" if marker.get("measured_as") not in (None, self.measured_as) else ""


def _flat(config: ConfigDict) -> dict[str, Any]:
    """{dotted field: value} without what changes no figure."""
    return {name: value for name, value in recipes.flatten(config).items() if name not in ELSEWHERE}


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def read_marker(folder: pathlib.Path) -> dict[str, Any]:
    """What FOLDER/study_run.json holds; {} where it is missing or damaged."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def write_marker(folder: pathlib.Path, marker: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{MARKER}.tmp"
    temporary.write_text(json.dumps({"format_version": FORMAT_VERSION, **marker}, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / MARKER)


def make_runs(
    study: Study,
    size: Size,
    folder: pathlib.Path,
    given: Sequence[str] = (),
    *,
    seeds: int = 0,
    checkpoint: str = "",
) -> list[Run]:
    """All runs of `study`, those of a seed together, so that a study that is cut short has whole tables.

    Args:
      folder: of the study.
      given: --config.FIELD=VALUE of the command line, for every row.
      seeds: how many; 0 is the size's own number.
      checkpoint: what the row that is trained takes its weights from, in place of training.

    Raises:
      ValueError: a config, a field or a value is wrong, or hides what a row is about.
    """
    if checkpoint and sum(not row.checkpoint_of for row in study.rows) != 1:
        raise ValueError(f"--checkpoint={checkpoint}: {study.name} trains several models; leave it out")
    runs: dict[tuple[str, int], Run] = {}
    folders = {row.name: folder / row.folder for row in study.rows}
    for seed in range(seeds or size.seeds):
        for row in study.rows:
            arguments, config = _configured(study, size, row, tuple(given), bool(checkpoint))
            config = config.copy_and_resolve_references()
            with config.unlocked():
                config.seed = seed
            source = folders[row.checkpoint_of] / f"seed{seed}" if row.checkpoint_of else None
            runs[row.name, seed] = Run(
                row,
                seed,
                folders[row.name] / f"seed{seed}",
                (*arguments, f"--config.seed={seed}"),
                config,
                source,
                checkpoint,
            )
    return list(runs.values())


@functools.cache
def _parsed(arguments: tuple[str, ...]) -> tuple[ConfigDict, frozenset[str]]:
    """(the config that flags of `soda_jax.main` mean, without a variant, and the fields that they give)."""
    values = flags.FlagValues()
    argv = ["soda_jax.main", *arguments]
    try:
        holder = define_config_flag(values, argv)
        values(argv)
        return holder.value, frozenset(given_fields(values))
    except (flags.Error, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{' '.join(arguments)}: {' '.join(str(error).split())}") from error


def _configured(
    study: Study, size: Size, row: Row, given: tuple[str, ...], from_checkpoint: bool
) -> tuple[tuple[str, ...], ConfigDict]:
    """(flags, config) of a row, whose seed is not set yet."""
    fields = dict(size.fields) | dict(row.fields)
    base = study.row(row.checkpoint_of) if row.checkpoint_of else row
    if row.checkpoint_of:  # the same model, measured in another way
        fields = dict(size.fields) | dict(base.fields) | dict(row.fields)
    if from_checkpoint:
        fields |= FROM_CHECKPOINT
    name = row.variant or base.variant
    variant = variants.find(name) if name else None
    owned = set(row.fields) | (set(variant.fields) if variant else set())
    for flag in given:
        field = flag.removeprefix("--config.").partition("=")[0]
        if field in owned or field in ("seed", "variant"):
            raise ValueError(f"{flag}: the row {row.name!r} is about this field, or the study sets it; leave it out")
    arguments = (f"--config={size.config}", *COMMON_FLAGS, *(_flag(*item) for item in fields.items()), *given)
    config, explicit = _parsed(arguments)
    config = config.copy_and_resolve_references()
    if variant is None:
        return arguments, config
    config = variants.chosen(config.unlock(), variant.name, explicit)
    return (*arguments, f"--variant={variant.name}"), config.lock()


def _flag(field: str, value: Any) -> str:
    return f"--config.{field}={tuple(value) if isinstance(value, list) else value}"
