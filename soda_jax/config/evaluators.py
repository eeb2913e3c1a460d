"""What `--mode=evaluate` can measure: the one list that config checks, the mode, reports and docs read.

A new evaluator is an entry here and a module of the same name in `soda_jax/evaluation/evaluators/`, whose class
`Evaluator` measures (`soda_jax.evaluation.interface` says what it is given and what it returns).
"""

import dataclasses
from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from soda_jax.config.checks.rules import EachItem, check_items, problem
from soda_jax.metrics.disentanglement.boosting import METHODS
from soda_jax.models.capabilities import CAPABILITIES, LATENT, NOISE, SOURCE
from soda_jax.models.families import FAMILIES

PROBE_VIEWS = ("none", "cached", "epoch")
INF = float("inf")


def _nothing(config: ConfigDict) -> Iterator[str]:
    yield from ()


@dataclasses.dataclass(frozen=True)
class EvaluatorEntry:
    """An evaluator as far as configs, messages and reports know it.

    Attributes:
      reads: "features" of both splits with their labels, or "images" sampled for the held-out split.
      gives: one sentence for docs.
      heading: of its figures in reports; their names start with the evaluator's.
      accuracies: whether the figures are accuracies and the like by label, as `metrics.classification` names them.
      needs: what the dataset must have beside images, and beside labels where features are read: "cameras".
      capabilities: what the model must be able to do (`models.capabilities`), beside the features that it reads.
      ranges: bounds, both included, of numbers in `config.eval` that no other evaluator has, by the whole field's name.
      choices: values that its other fields may have.
      items: what its tuples must hold.
      flags: its other fields, of which any value will do.
      check: lines on what these cannot say.
    """

    reads: str
    gives: str
    heading: str
    accuracies: bool = False
    needs: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    ranges: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    choices: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    items: dict[str, EachItem] = dataclasses.field(default_factory=dict)
    flags: tuple[str, ...] = ()
    check: Callable[[ConfigDict], Iterator[str]] = _nothing

    def fields(self) -> list[str]:
        """The fields that are the evaluator's own."""
        return [*self.ranges, *self.choices, *self.items, *self.flags]


def _check_disentanglement(config: ConfigDict) -> Iterator[str]:
    if config.eval.dci_repeats == 1:
        yield problem(config, "eval.dci_repeats", "must be 0, or at least 2: one repetition has no spread")
    if config.eval.dci_pca:
        rule = EachItem(int, 1, INF, "numbers of principal components, each at least 1, or () for none")
        yield from check_items(config, {"eval.dci_pca": rule})


def _check_edits(config: ConfigDict) -> Iterator[str]:
    if not config.eval.edits_directions:
        yield problem(config, "eval.edits_directions", "name at least one kind or direction, as 'pca'")
    sigmas = tuple(config.eval.edits_sigmas)
    if 0 in sigmas or len(set(sigmas)) < len(sigmas):
        yield problem(config, "eval.edits_sigmas", "must be different strengths, none of them 0: that is no edit")
    if config.eval.edits_steps > config.diffusion.num_timesteps:
        most = config.diffusion.num_timesteps
        yield problem(config, "eval.edits_steps", f"must be at most config.diffusion.num_timesteps={most}, or 0")


# Evaluators run, and their figures are listed, in this order; those of features come first.
EVALUATORS: dict[str, EvaluatorEntry] = {
    "knn": EvaluatorEntry(
        reads="features",
        gives="Accuracy and F1 of a k-nearest-neighbour vote on the features, for every k of `config.eval.knn_k`.",
        heading="k-nearest neighbours",
        accuracies=True,
        items={"eval.knn_k": EachItem(int, 1, INF, "numbers of neighbours, each at least 1")},
    ),
    "linear_probe": EvaluatorEntry(
        reads="features",
        gives="Accuracy, F1 and average precision of a linear classifier on the frozen features (the paper's E.1).",
        heading="Linear probe",
        accuracies=True,
        ranges={
            "eval.probe_epochs": (1, INF),
            "eval.probe_cached_views": (1, INF),
            "eval.probe_crop_rate": (0, 1),
        },
        choices={"eval.probe_views": PROBE_VIEWS},
        items={"eval.probe_learning_rates": EachItem(float, 1e-12, INF, "learning rates above 0")},
    ),
    "few_shot": EvaluatorEntry(
        reads="features",
        gives="The linear probe with a share of the labels, mean over random draws (`config.eval.few_shot_shares`).",
        heading="Few-shot probe",
        accuracies=True,
        ranges={"eval.few_shot_seeds": (1, INF)},
        items={"eval.few_shot_shares": EachItem(float, 1e-12, 1, "shares of the labels, above 0 and up to 1")},
    ),
    "disentanglement": EvaluatorEntry(
        reads="features",
        gives="DCI, MIG, SAP and the FactorVAE score of the latent, DCI of each of its sections (the paper's 4.3), and "
        "DCI and the FactorVAE score of the sections' principal components.",
        heading="Disentanglement",
        ranges={
            "eval.dci_train": (2, INF),
            "eval.dci_test": (1, INF),
            "eval.dci_repeats": (0, INF),
            "eval.dci_seeds": (1, INF),
            "eval.factor_vae_threshold": (0, INF),
        },
        choices={"eval.dci_method": METHODS},
        flags=("eval.dci_sections", "eval.dci_pca"),
        check=_check_disentanglement,
    ),
    "reconstruction": EvaluatorEntry(
        reads="images",
        gives="How like its target each sample is, by `config.eval.image_metrics` (the paper's 4.2.1).",
        heading="Reconstruction",
        capabilities=(SOURCE,),
        ranges={"eval.reconstruction_examples": (0, INF)},
    ),
    "diversity": EvaluatorEntry(
        reads="images",
        gives="How far apart samples from one latent are, that is, what the latent leaves open.",
        heading="Diversity",
        capabilities=(NOISE, SOURCE),
        ranges={"eval.diversity_seeds": (2, INF)},
    ),
    "novel_view": EvaluatorEntry(
        reads="images",
        gives="How like the truth objects look to requested cameras, by the number of sources (the paper's 4.2.2).",
        heading="Novel views",
        needs=("cameras",),
        capabilities=(LATENT,),
        ranges={"eval.novel_view_examples": (0, INF), "eval.novel_view_targets": (1, INF)},
        items={"eval.novel_view_sources": EachItem(int, 1, INF, "numbers of sources, each at least 1")},
    ),
    "edits": EvaluatorEntry(
        reads="images",
        gives="What moving along the latent's directions, and mixing its sections, does: edited images are encoded "
        "again, and their factors read where the dataset has exact ones (the paper's 4.3, E.3).",
        heading="Edits",
        capabilities=(LATENT,),
        ranges={
            "eval.edits_components": (1, INF),
            "eval.edits_examples": (0, INF),
            "eval.edits_steps": (0, INF),
            "eval.edits_least_share": (0, 1),
            "eval.edits_most_leakage": (0, INF),
            "eval.edits_factor_examples": (0, INF),
            "eval.edits_factor_sigma": (1e-6, INF),
            "eval.edits_oracle_steps": (0, INF),
            "eval.edits_oracle_accuracy": (0, 1),
        },
        items={"eval.edits_sigmas": EachItem(float, -100, 100, "strengths in sigma, none of them 0")},
        flags=("eval.edits_directions",),
        check=_check_edits,
    ),
}

# Of these a family is measured by what it can serve.
DEFAULT = ("knn", "linear_probe", "few_shot", "reconstruction")


def wanted(config: ConfigDict, reads: str) -> list[str]:
    """Those of `config.eval.evaluators` that read "features", or "images", in the order in which they run.

    Of the default ones those that the model's family can serve; other choices must be possible (`impossible`).
    """
    chosen = tuple(config.eval.evaluators)
    names = [name for name, entry in EVALUATORS.items() if entry.reads == reads and name in chosen]
    return [name for name in names if chosen != DEFAULT or _lacking(config, name) is None]


def impossible(config: ConfigDict) -> Iterator[str]:
    """A line for each of `config.eval.evaluators` that the model's family cannot serve."""
    for name in config.eval.evaluators:
        lacking = _lacking(config, name) if name in EVALUATORS else None
        if lacking is not None and tuple(config.eval.evaluators) != DEFAULT:
            family = f"config.model.family={config.model.family!r}"
            remedy = f"{name} needs {CAPABILITIES[lacking]}, which {family} has not; leave it out"
            yield problem(config, "eval.evaluators", remedy)


def _lacking(config: ConfigDict, name: str) -> str | None:
    """The first capability that an evaluator needs and the model's family lacks."""
    offered = FAMILIES[config.model.family].capabilities
    return next((needed for needed in EVALUATORS[name].capabilities if needed not in offered), None)


def table_rows() -> list[tuple[str, str, str]]:
    """(name, what it gives, its own fields) of every evaluator, for the docs."""
    return [
        (f"`{name}`", entry.gives, ", ".join(f"`config.{field}`" for field in entry.fields()))
        for name, entry in EVALUATORS.items()
    ]
