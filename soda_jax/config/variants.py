"""The variants of SODA that the paper names: the one list that reports, docs and studies read."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Variant:
    """A model or a training that differs from the paper's own.

    Attributes:
      name: the paper's, or as close to it as an unambiguous one can be.
      fields: values by the config's fields, with dotted names, that make it of any config of the paper's own model.
      where: tables and sections of the paper, "not in the paper" for what only others would compare.
      needs: what the data must have: "cameras".
    """

    name: str
    fields: dict[str, Any]
    where: str
    needs: tuple[str, ...] = ()

    def flags(self) -> str:
        """As command-line flags: "--config.model.bottleneck=False ..."."""
        return " ".join(f"--config.{field}={value}" for field, value in self.fields.items())


# Names that other modules say something of.
WITHOUT_NOVEL_VIEWS = "w/o novel views"
CROP_FLIP = "crop+flip"


def _kind(name: str, kind: str, where: str) -> Variant:
    return Variant(name, {"model.modulation.kind": kind}, where)


def _schedule(name: str, schedule: str, where: str) -> Variant:
    return Variant(name, {"diffusion.schedule": schedule}, where)


def _aggregation(name: str, aggregation: str) -> Variant:
    return Variant(name, {"model.aggregation.name": aggregation}, "Table 5")


def _rays(form: str, coordinates: str) -> Variant:
    fields = {
        "model.pose.grid": "rays",
        "model.pose.vector": "none",
        "model.pose.rays": form,
        "model.pose.coordinates": coordinates,
    }
    return Variant(f"{form} rays, {coordinates}", fields, "Table 8", ("cameras",))


def _vector(name: str, grid: str, vector: str) -> Variant:
    fields = {"model.pose.grid": grid, "model.pose.vector": vector, "model.pose.coordinates": "polar"}
    return Variant(name, fields, "Table 8", ("cameras",))


def _masking(what: str, latent_rate: float, pose_rate: float, guidance_on: str) -> Variant:
    fields = {
        "diffusion.latent_mask_rate": latent_rate,
        "diffusion.pose_mask_rate": pose_rate,
        "sampling.guidance_on": guidance_on,  # what was never hidden in training has no unconditional prediction
    }
    return Variant(f"masking of {what}", fields, "G.3", ("cameras",))


VARIANTS: tuple[Variant, ...] = (
    _kind("w/o layer modulation", "full", "Tables 4, 7, 9, 11"),
    Variant("w/o layer mask", {"diffusion.layer_mask_rate": 0.0}, "Table 11"),
    Variant("w/o scale modulation", {"model.modulation.use_scale": False}, "Tables 9, 11"),
    _kind("sum modulation", "sum", "Tables 9, 11"),
    _kind("concat modulation", "concat", "Tables 9, 11"),
    _kind("cross attention", "cross_attention", "Section 3.3"),
    _kind("w/o modulation", "broadcast", "Tables 1, 3, 11"),
    Variant(
        "w/o bottleneck",
        {"model.bottleneck": False, "model.modulation.kind": "cross_attention"},  # as a grid of features needs it (F.1)
        "Tables 1, 3, 11",
    ),
    Variant("EncDec", {"model.family": "encdec"}, "Table 1, F.1"),
    Variant("AutoEnc", {"model.family": "encdec", "data.view_policy": "same"}, "Table 1, F.1"),
    Variant(WITHOUT_NOVEL_VIEWS, {"data.view_policy": "same"}, "Table 1"),
    Variant(CROP_FLIP, {"data.randaugment_rate": 0.0}, "Table 1"),
    _schedule("w/o noise schedule", "cosine", "Table 1"),
    _schedule("linear schedule", "linear", "Section 3.4"),
    _schedule("sigmoid schedule", "sigmoid", "Section 3.4"),
    _schedule("reflected schedule", "reflected", "not in the paper"),
    _aggregation("mean aggregation", "mean"),
    _aggregation("stochastic conditioning", "stochastic"),
    _aggregation("transformer aggregation", "transformer"),
    _rays("concat", "cartesian"),
    _rays("concat", "polar"),
    _rays("sphere", "cartesian"),
    _rays("normalized", "cartesian"),
    _rays("plane", "cartesian"),
    _rays("sphere", "polar"),
    _vector("absolute pose as a vector", "none", "absolute"),
    _vector("rays and relative pose as a vector", "rays", "relative"),
    _vector("rays and absolute pose as a vector", "rays", "absolute"),
    _masking("the latent", 0.12, 0.0, "latent"),
    _masking("the pose", 0.0, 0.12, "pose"),
    _masking("latent and pose", 0.12, 0.12, "both"),
)


def table_rows() -> list[tuple[str, str, str]]:
    """(in the paper, where, what to set) of every variant, for the docs."""
    return [(variant.name, variant.where, f"`{variant.flags()}`") for variant in VARIANTS]
