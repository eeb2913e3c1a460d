"""The models that come with the package: each folder of `soda_jax/pretrained/` is an export, named as the folder is."""

import dataclasses
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from tabulate import tabulate

from soda_jax import config as config_lib
from soda_jax.models.capabilities import LATENT
from soda_jax.models.families import FAMILIES
from soda_jax.workdir import export as exports
from soda_jax.workdir import safetensors

# The seam for tests: a folder of tiny models may stand in its place.
FOLDER = pathlib.Path(__file__).resolve().parents[1] / "pretrained"
_FIGURES = 2  # that a row of the table has room for
_FIRST = ("linear_probe/mean", "linear_probe/label", "reconstruction/psnr")


@dataclasses.dataclass(frozen=True)
class PretrainedModel:
    """A model that comes with the package, by what its folder says; `soda_jax.load(name)` loads it.

    Attributes:
      name: for `soda_jax.load`.
      title: the model's family and its encoder.
      dataset: that it was trained on.
      license: of the weights, as the hub names it; "" where none is said.
      step: of the checkpoint.
      resolution: side of the images that it draws, in pixels.
      source_resolution: side of the images that it encodes.
      latent_dim: numbers of a latent; None of a model without one.
      parameters: how many.
      dtype: the stored precision.
      size: bytes on the disk.
      examples: how many held-out examples lie beside it.
      figures: of its evaluation, as the card has them: {metric: value}.
      folder: where it lies.
    """

    name: str
    title: str
    dataset: str
    license: str
    step: int
    resolution: int
    source_resolution: int
    latent_dim: int | None
    parameters: int
    dtype: str
    size: int
    examples: int
    figures: Mapping[str, float]
    folder: str


class PretrainedModels(dict[str, PretrainedModel]):
    """{name: `PretrainedModel`}, which prints as a table."""

    def __repr__(self) -> str:
        if not self:
            return "no model comes with this installation of soda_jax"
        headers = ("name", "model", "data", "draws", "encodes", "latent", "parameters", "size", "examples", "license")
        rows = [
            (
                model.name,
                model.title,
                model.dataset,
                f"{model.resolution} px",
                f"{model.source_resolution} px",
                model.latent_dim or "-",
                f"{model.parameters / 1e6:,.1f}M",
                f"{model.size / 1e6:,.1f} MB",
                model.examples,
                model.license or "not said",
                ", ".join(f"{metric} {value:.4g}" for metric, value in _telling(model.figures)),
            )
            for model in self.values()
        ]
        return tabulate(rows, (*headers, "figures"), disable_numparse=True)


def _telling(figures: Mapping[str, float]) -> list[tuple[str, float]]:
    """The figures for the table: those of the whole before those of one label among several."""
    return sorted(figures.items(), key=lambda figure: _rank(figure[0]))[:_FIGURES]


def _rank(metric: str) -> int:
    return _FIRST.index(metric) if metric in _FIRST else len(_FIRST)


def names() -> list[str]:
    """The names of the models that are here."""
    if not FOLDER.is_dir():
        return []
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and exports.is_export(path))


def pretrained() -> PretrainedModels:
    """The models that come with the package, by the names that `soda_jax.load` takes; printed, a table.

    No weights are read, so this takes no time. A folder that is damaged is left out, with a warning.
    """
    found = PretrainedModels()
    for name in names():
        try:
            found[name] = _described(name, FOLDER / name)
        except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(f"the model {name!r} of this installation is damaged ({error})", stacklevel=2)
    return found


def _described(name: str, folder: pathlib.Path) -> PretrainedModel:
    description, config = exports.described(folder), config_lib.from_dict(exports.read_config(folder))
    family, about, files = FAMILIES[config.model.family], description["about"], description["files"]
    has_latent = LATENT in family.capabilities
    tensors = safetensors.read_header(folder / exports.WEIGHTS)
    return PretrainedModel(
        name=name,
        title=f"{family.title}, {config.model.encoder.name}" if has_latent else family.title,
        dataset=config.data.name,
        license=str(about.get("license", "")),
        step=description["step"],
        resolution=config.data.resolution,
        source_resolution=config.data.source_resolution,
        latent_dim=config.model.latent_dim if has_latent else None,
        parameters=sum(int(np.prod(t.shape)) for key, t in tensors.items() if key.startswith("params.")),
        dtype=description["dtype"],
        size=sum(entry["size"] for entry in files.values()),
        examples=exports.num_examples(files),
        figures=_figures(about),
        folder=str(folder),
    )


def _figures(about: Mapping[str, Any]) -> dict[str, float]:
    """The model's own row of the evaluation; figures with an interval are tables with a `value`."""
    row = about.get("figures", {}).get(about.get("model", ""), {})
    values = {metric: value.get("value") if isinstance(value, dict) else value for metric, value in row.items()}
    return {metric: float(value) for metric, value in values.items() if isinstance(value, int | float)}
