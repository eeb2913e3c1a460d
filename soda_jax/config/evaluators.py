"""What `--mode=evaluate` can measure: the one list that config checks, the mode, reports and docs read.

A new evaluator is an entry here and a module of the same name in `soda_jax/evaluation/evaluators/`, whose class
`Evaluator` measures (`soda_jax.evaluation.interface` says what it is given and what it returns).
"""

import dataclasses
from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from soda_jax.config.checks.rules import EachItem, problem
from soda_jax.metrics.disentanglement.boosting import METHODS
from soda_jax.models.capabilities import NOISE

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
      capability: what the model must be able to do (`models.capabilities`); "" for what every model can.
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
    capability: str = ""
    ranges: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    choices: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    items: dict[str, EachItem] = dataclasses.field(default_factory=dict)
    flags: tuple[str, ...] = ()
    check: Callable[[ConfigDict], Iterator[str]] = _nothing

    def fields(self) -> list[str]:
        """The fields that are the evaluator's own."""
        return [*self.ranges, *self.choices, *self.items, *self.flags]


def _check_repeats(config: ConfigDict) -> Iterator[str]:
    if config.eval.dci_repeats == 1:
        yield problem(config, "eval.dci_repeats", "must be 0, or at least 2: one repetition has no spread")


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
        gives="DCI, MIG, SAP and the FactorVAE score of the latent, and DCI of each of its sections (the paper's 4.3).",
        heading="Disentanglement",
        ranges={"eval.dci_train": (2, INF), "eval.dci_test": (1, INF), "eval.dci_repeats": (0, INF)},
        choices={"eval.dci_method": METHODS},
        flags=("eval.dci_sections",),
        check=_check_repeats,
    ),
    "reconstruction": EvaluatorEntry(
        reads="images",
        gives="How like its target each sample is, by `config.eval.image_metrics` (the paper's 4.2.1).",
        heading="Reconstruction",
        ranges={"eval.reconstruction_examples": (0, INF)},
    ),
    "diversity": EvaluatorEntry(
        reads="images",
        gives="How far apart samples from one latent are, that is, what the latent leaves open.",
        heading="Diversity",
        capability=NOISE,
        ranges={"eval.diversity_seeds": (2, INF)},
    ),
    "novel_view": EvaluatorEntry(
        reads="images",
        gives="How like the truth objects look to requested cameras, by the number of sources (the paper's 4.2.2).",
        heading="Novel views",
        needs=("cameras",),
        ranges={"eval.novel_view_examples": (0, INF), "eval.novel_view_targets": (1, INF)},
        items={"eval.novel_view_sources": EachItem(int, 1, INF, "numbers of sources, each at least 1")},
    ),
}


def wanted(config: ConfigDict, reads: str) -> list[str]:
    """Those of `config.eval.evaluators` that read "features", or "images", in the order in which they run."""
    return [name for name, entry in EVALUATORS.items() if entry.reads == reads and name in config.eval.evaluators]


def table_rows() -> list[tuple[str, str, str]]:
    """(name, what it gives, its own fields) of every evaluator, for the docs."""
    return [
        (f"`{name}`", entry.gives, ", ".join(f"`config.{field}`" for field in entry.fields()))
        for name, entry in EVALUATORS.items()
    ]
