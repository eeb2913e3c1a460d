"""Whether a figure of ours may be held against the paper's, and if not, why."""

import dataclasses
from typing import Any

from soda_jax.config.variants import CROP_FLIP, VARIANTS, WITHOUT_NOVEL_VIEWS, Variant
from soda_jax.reporting import paper, recipes
from soda_jax.reporting.metric_names import Metric
from soda_jax.reporting.paper import Dataset, Figure

Flat = dict[str, Any]
DIFFUSION_STEPS = (75, 250)  # the paper's range of sampling steps
LATENT_DIMS = (128, 2048)  # its range of latents

# One such difference makes another row of the paper's tables.
_IN_TABLES = {figure.variant for dataset in paper.DATASETS.values() for figure in dataset.figures}
_ABLATIONS = tuple(variant for variant in VARIANTS if variant.name in _IN_TABLES)
# Its reconstructions and novel views come from models that are trained for them (its footnote 4).
_PROBE_ONLY = (WITHOUT_NOVEL_VIEWS, CROP_FLIP)

# (short name, fields): what must agree with the recipe for a comparison.
_PARTS = (
    ("model", ("model.family",)),
    ("resolution", ("data.resolution", "data.source_resolution")),
    ("encoder", ("model.encoder", "model.latent_dim")),
    ("denoiser", ("model.denoiser", "model.modulation", "model.aggregation", "model.pose", "model.bottleneck")),
    ("diffusion", ("diffusion",)),
    (
        "views",
        (
            "data.view_policy",
            "data.augment_source",
            "data.augment_target",
            "data.crop_rate",
            "data.crop_scale",
            "data.flip",
            "data.randaugment_rate",
            "data.source_noise",
        ),
    ),
)
# Fields that leave examples out of a measurement; 0 is all.
_LIMITS = {
    "probe": (("eval.train_examples", "training examples"), ("eval.test_examples", "test examples")),
    "reconstruction": (("eval.reconstruction_examples", "test examples"),),
    "novel_view": (("eval.novel_view_examples", "test objects"),),
}
_CODES = {"eval.dci_train": 10_000, "eval.dci_test": 5_000}
_SHOWN = 4  # differing fields named in one reason


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why a comparison does not hold: a word for the table, a sentence for below it."""

    short: str
    text: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The paper's figure for one of ours, and what stands against holding them against each other."""

    figure: Figure
    reasons: tuple[Reason, ...]

    @property
    def comparable(self) -> bool:
        return not self.reasons


class Comparer:
    """Compares a run's figures with the paper's.

    Args:
      config: of the run, with dotted names.
      step: of the checkpoint that was evaluated.
      dataset: of the paper, as in `paper.DATASETS`; None where the paper lacks the run's.
      settings: the evaluation's own config.eval and config.sampling, dotted; they replace the run's.
      recipe: the paper's settings, dotted; by default those of the dataset's config.
    """

    def __init__(
        self,
        config: Flat,
        step: int,
        dataset: Dataset | None,
        settings: Flat | None = None,
        recipe: Flat | None = None,
    ):
        self._config = config | (settings or {})
        self._step, self._dataset = step, dataset
        if dataset is not None and recipe is None:
            recipe = recipes.load(*dataset.recipe)
        self._recipe = recipe

    def compare(self, metric: Metric) -> Comparison | None:
        """The paper's figure that stands nearest to `metric`; None where it has none."""
        if self._dataset is None or not metric.paper:
            return None
        figures = paper.figures_of(self._dataset, metric.paper)
        if not figures:
            return None
        if self._recipe is None:
            why = "the settings that follow the paper (configs/) are not installed, so that nothing can be compared"
            return Comparison(self._nearest(figures, paper.SODA), (Reason("recipe", why),))
        variants = self._variants(metric)
        wanted = variants[0].name if len(variants) == 1 else paper.SODA
        figure = self._nearest(figures, wanted)
        matched = [field for variant in variants if variant.name == figure.variant for field in variant.fields]
        return Comparison(figure, tuple(self._reasons(metric, figure, matched)))

    def _variants(self, metric: Metric) -> list[Variant]:
        """The ablations that the run is of."""
        of_probe = metric.paper.startswith("probe/")
        found = (variant for variant in _ABLATIONS if self._run_is_of(variant))
        return [variant for variant in found if of_probe or variant.name not in _PROBE_ONLY]

    def _run_is_of(self, variant: Variant) -> bool:
        """Whether the run has all of the variant's values, and the paper's own settings do not."""
        ours, theirs = ({field: flat.get(field) for field in variant.fields} for flat in (self._config, self._recipe))
        return ours == variant.fields != theirs

    def _nearest(self, figures: list[Figure], variant: str) -> Figure:
        """The figure of `variant`, else of the paper's own model; with the run's encoder if there are several."""
        rows = [figure for figure in figures if figure.variant == variant]
        rows = rows or [figure for figure in figures if figure.variant == paper.SODA]
        encoder = self._config.get("model.encoder.name")
        same = [figure for figure in rows if figure.encoder == encoder]
        return (same or [figure for figure in rows if not figure.encoder] or rows)[0]

    def _reasons(self, metric: Metric, figure: Figure, matched: list[str]) -> list[Reason]:
        recipe = self._recipe | ({"model.encoder.name": figure.encoder} if figure.encoder else {})
        images = not metric.paper.startswith(("probe/", "dci/"))
        reasons = [self._part(short, fields, recipe, matched, images) for short, fields in _PARTS]
        reasons += self._training(recipe)
        reasons += self._sampling(recipe) if images else self._features(metric)
        reasons += self._subset(metric)
        if metric.paper.startswith("reconstruction/") and self._config.get("data.view_policy") != "same":
            text = "for reconstruction the paper trains with source = target (its footnote 4)"
            reasons.append(Reason("task", text + f"; this run has {self._config.get('data.view_policy')!r} views"))
        if metric.name.endswith("lpips_alexnet"):
            text = "the paper's text cites VGG (its reference 125) where it introduces the metric, not AlexNet"
            reasons.append(Reason("network", text))
        if self._dataset.caution:
            reasons.append(Reason("images", self._dataset.caution))
        return [reason for reason in reasons if reason is not None]

    def _part(self, short: str, fields: tuple[str, ...], recipe: Flat, matched: list[str], images: bool):
        """The fields of one part that differ; None where none does."""
        names = [name for name in recipe if name in fields or name.startswith(tuple(f"{field}." for field in fields))]
        differing = []
        for name in names:
            ours, theirs = self._config.get(name), recipe[name]
            if ours == theirs or name in matched or self._allowed(name, ours, figure_of_images=images):
                continue
            differing.append(f"{_leaf(name)} {recipes.shown(ours)} (paper {recipes.shown(theirs)})")
        if not differing:
            return None
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        return Reason(short, ", ".join(differing[:_SHOWN]) + more)

    def _allowed(self, name: str, ours: Any, figure_of_images: bool) -> bool:
        """Whether the paper leaves this value open."""
        if name == "model.encoder.name":
            return ours in self._dataset.encoders
        if name == "model.latent_dim" and self._dataset.free_latent_dim:
            return LATENT_DIMS[0] <= ours <= LATENT_DIMS[1]
        # Its reconstructions are of models whose source is the target (footnote 4).
        return figure_of_images and name == "data.view_policy" and ours == "same"

    def _training(self, recipe: Flat) -> list[Reason]:
        batch, paper_batch = self._config["train.batch_size"], recipe["train.batch_size"]
        images, full = self._step * batch, recipe["train.num_steps"] * paper_batch
        told = []
        if batch != paper_batch:
            told.append(f"batch {batch:,} (paper {paper_batch:,})")
        if images < full:
            told.append(
                f"{self._step:,} steps x batch = {millions(images)} images; configs/{self._dataset.recipe[0]}.py, our "
                f"reading of the paper's training until convergence, has {millions(full)}"
            )
        return [Reason("training", "; ".join(told))] if told else []

    def _sampling(self, recipe: Flat) -> list[Reason]:
        told = []
        steps, scale = self._config.get("sampling.num_steps"), self._config.get("sampling.guidance_scale")
        if self._config.get("sampling.method") != "ddpm":
            told.append(f"method {self._config.get('sampling.method')} (paper ddpm)")
        if not DIFFUSION_STEPS[0] <= steps <= DIFFUSION_STEPS[1]:
            told.append(f"{steps} steps (paper {DIFFUSION_STEPS[0]}-{DIFFUSION_STEPS[1]})")
        if scale != recipe["sampling.guidance_scale"]:
            told.append(f"guidance {scale} (paper {recipe['sampling.guidance_scale']})")
        return [Reason("sampling", ", ".join(told))] if told else []

    def _features(self, metric: Metric) -> list[Reason]:
        reasons = []
        for field, usual in _CODES.items() if metric.paper.startswith("dci/") else ():
            if self._config.get(field, usual) != usual:
                text = f"{field} {self._config[field]:,}, {usual:,} in disentanglement_lib, which the paper follows"
                reasons.append(Reason("codes", text))
        feature = self._config.get("eval.feature", "latent")
        if feature != "latent":
            reasons.append(Reason("feature", f"{feature!r}; the paper measures the latent"))
        if metric.paper.startswith("probe/") and self._dataset.recipe[0] == "imagenet":
            if self._config.get("eval.probe_views", "none") == "none":
                text = "trained on un-augmented features; on ImageNet the paper's saw crops and flips (E.1)"
                reasons.append(Reason("probe", text))
        return reasons

    def _subset(self, metric: Metric) -> list[Reason]:
        """Examples left out of the measurement."""
        told = []
        for field, what in _LIMITS.get(metric.paper.partition("/")[0].rstrip("0123456789"), ()):
            limit = self._config.get(field, 0)
            if limit:
                told.append(f"at most {limit:,} {what}")
        return [Reason("subset", f"measured on {' and '.join(told)}, the paper on all")] if told else []


def _leaf(name: str) -> str:
    return name.removeprefix("data.").removeprefix("model.").replace("_", " ")


def millions(count: float) -> str:
    """A number of images: "41,234", "1.23 million", "1,638 million"."""
    if count < 1e6:
        return f"{count:,.0f}"
    return f"{count / 1e6:,.0f} million" if count >= 1e8 else f"{count / 1e6:.3g} million"
