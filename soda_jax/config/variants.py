"""The variants of SODA that the paper names: the one list that --variant, reports, docs and studies read."""

import dataclasses
import difflib
import re
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

# What a variant may need, in words that follow "data".
NEEDS = {
    "cameras": "with cameras",
    "images": "without cameras",
    "pretrained": "of any kind, and pretrained weights",
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A model or a training that differs from the paper's own.

    Attributes:
      name: the paper's, or as close to it as an unambiguous one can be.
      fields: values by the config's fields, with dotted names, that make it of any config of the paper's own model.
      where: tables and sections of the paper, "not in the paper" for what only others would compare.
      needs: names of `NEEDS`.
      with_cameras: further fields that it takes on sets with cameras, whose configs show several sources.
      also: other names that it goes by.
    """

    name: str
    fields: dict[str, Any]
    where: str
    needs: tuple[str, ...] = ()
    with_cameras: dict[str, Any] = dataclasses.field(default_factory=dict)
    also: tuple[str, ...] = ()

    def unfit(self, config: ConfigDict) -> str:
        """What its data must be and that of `config` is not, in the words of `NEEDS`; "" where it fits."""
        cameras = config.data.view_policy == "camera"
        missing = {"cameras": not cameras, "images": cameras}
        return next((NEEDS[need] for need in self.needs if missing.get(need)), "")

    def flags(self) -> str:
        """As command-line flags: "--config.model.bottleneck=False ..."."""
        return " ".join(f"--config.{field}={value}" for field, value in self.fields.items())


# Names that other modules say something of.
WITHOUT_NOVEL_VIEWS = "w/o novel views"
CROP_FLIP = "crop+flip"
_VAES = "Tables 4, 6, 7, F.5"


def _kind(name: str, kind: str, where: str) -> Variant:
    return Variant(name, {"model.modulation.kind": kind}, where)


def _family(name: str, family: str, where: str, *needs: str, also: tuple[str, ...] = ()) -> Variant:
    return Variant(name, {"model.family": family}, where, needs, also=also)


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


def _masking(name: str, latent_rate: float, pose_rate: float, guidance_on: str) -> Variant:
    fields = {
        "diffusion.latent_mask_rate": latent_rate,
        "diffusion.pose_mask_rate": pose_rate,
        "sampling.guidance_on": guidance_on,  # what was never hidden in training has no unconditional prediction
    }
    return Variant(name, fields, "G.3", ("cameras",))


VARIANTS: tuple[Variant, ...] = (
    _kind("w/o layer modulation", "full", "Tables 4, 7, 9, 11"),
    Variant("w/o layer mask", {"diffusion.layer_mask_rate": 0.0}, "Table 11"),
    Variant("w/o scale modulation", {"model.modulation.use_scale": False}, "Tables 9, 11", also=("w/o scale",)),
    _kind("sum modulation", "sum", "Tables 9, 11"),
    _kind("concat modulation", "concat", "Tables 9, 11"),
    _kind("cross attention", "cross_attention", "Section 3.3"),
    _kind("w/o modulation", "broadcast", "Tables 1, 3, 11"),
    Variant(
        "w/o bottleneck",
        {"model.bottleneck": False, "model.modulation.kind": "cross_attention"},  # as a grid of features needs it (F.1)
        "Tables 1, 3, 11",
        with_cameras={"data.num_sources": 1, "eval.novel_view_sources": (1,)},
    ),
    _family("EncDec", "encdec", "Table 1, F.1", "images", also=("Vanilla EncDec",)),
    Variant(
        "AutoEnc",
        {"model.family": "encdec", "data.view_policy": "same"},
        "Table 1, F.1",
        ("images",),
        also=("Vanilla AutoEnc",),
    ),
    _family("Uncond", "uncond", "Table 1, F.1", "images", also=("Unconditional Diffusion", "DDAE")),
    _family("Palette", "palette", "Tables 1, 3, F.1"),
    _family("unCLIP", "frozen", "Tables 2, 3, F.1", "pretrained", also=("DALL-E2",)),
    _family("beta-VAE", "vae_beta", _VAES, "images"),
    _family("AnnealedVAE", "vae_annealed", _VAES, "images"),
    _family("FactorVAE", "vae_factor", _VAES, "images"),
    _family("beta-TCVAE", "vae_tc", _VAES, "images"),
    _family("DIP-VAE (I)", "vae_dip1", _VAES, "images", also=("DIP-VAE I",)),
    _family("DIP-VAE (II)", "vae_dip2", _VAES, "images", also=("DIP-VAE II",)),
    Variant(WITHOUT_NOVEL_VIEWS, {"data.view_policy": "same"}, "Table 1", ("images",)),
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
    _masking("latent masking", 0.12, 0.0, "latent"),
    _masking("pose masking", 0.0, 0.12, "pose"),
    _masking("latent+pose masking", 0.12, 0.12, "both"),
)


def find(name: str) -> Variant:
    """The variant of that name, however it is capitalised, "mod." and "sched." written out or not.

    Raises:
      ValueError: there is none; the message lists the names, the nearest first.
    """
    known = {_plain(other): variant for variant in VARIANTS for other in (variant.name, *variant.also)}
    if _plain(name) in known:
        return known[_plain(name)]
    close = [known[plain] for plain in difflib.get_close_matches(_plain(name), known, n=3)]
    nearest = dict.fromkeys(variant.name for variant in (*close, *VARIANTS))
    raise ValueError(f"no variant is called {name!r}; they are {'; '.join(nearest)}")


def _plain(name: str) -> str:
    words = name.casefold().replace("mod.", "modulation").replace("sched.", "schedule").replace("without ", "w/o ")
    return re.sub(r"\s+", " ", words).strip()


def apply(config: ConfigDict, name: str, given: Collection[str] = ()) -> None:
    """Makes `config` one of the variant `name`, and notes the name in `config.variant`.

    Args:
      given: fields, with dotted names, that stay as they are: those given explicitly.

    Raises:
      ValueError: there is no such variant, or the config's data is not for it.
    """
    variant = find(name)
    wanted = variant.unfit(config)
    if wanted:
        raise ValueError(
            f"the variant {variant.name!r} is for data {wanted}: choose such a config; this one has "
            f"config.data.view_policy={config.data.view_policy!r}"
        )
    fields = variant.fields | (variant.with_cameras if config.data.view_policy == "camera" else {})
    config.update_from_flattened_dict({field: value for field, value in fields.items() if field not in given})
    config.variant = variant.name


def chosen(config: ConfigDict, name: str | None, given: Collection[str] = ()) -> ConfigDict:
    """`config` as the command line has it: of the variant, if any, that --variant or --config.variant names.

    Args:
      given: fields that the command line gives explicitly, which win.
    """
    if name is None and "variant" in given:
        name = config.variant
    if name:
        apply(config, name, given)
    return config


def table_rows() -> list[tuple[str, str, str, str]]:
    """(name, where in the paper, what data it is for, what it sets) of every variant, for the docs."""
    return [
        (
            f"`{variant.name}`",
            variant.where,
            ", ".join(NEEDS[need] for need in variant.needs) or "of any kind",
            f"`{variant.flags()}`",
        )
        for variant in VARIANTS
    ]
