"""Checks of what --mode=evaluate, and training's own evaluations, read."""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from soda_jax.config.checks.rules import check_choices, check_ranges, problem, value

FEATURE_EVALUATORS = ("knn", "linear_probe", "few_shot", "disentanglement")
IMAGE_EVALUATORS = ("reconstruction", "novel_view", "diversity")
EVALUATORS = (*FEATURE_EVALUATORS, *IMAGE_EVALUATORS)
IMAGE_METRICS = (
    "psnr",
    "psnr_pooled",
    "ssim",
    "ssim_gaussian",
    "lpips_alexnet",
    "lpips_vgg16",
    "fid",
    "frechet_alexnet",
)


def check(config: ConfigDict) -> Iterator[str]:
    """Problems of `config.eval`."""
    inf = float("inf")
    yield from check_ranges(
        config,
        {
            "eval.batch_size": (1, inf),
            "eval.num_examples": (0, inf),
            "eval.train_examples": (0, inf),
            "eval.test_examples": (0, inf),
            "eval.reconstruction_examples": (0, inf),
            "eval.novel_view_examples": (0, inf),
            "eval.novel_view_targets": (1, inf),
            "eval.probe_epochs": (1, inf),
            "eval.probe_cached_views": (1, inf),
            "eval.probe_crop_rate": (0, 1),
            "eval.feature_memory_gib": (1e-3, inf),
            "eval.few_shot_seeds": (1, inf),
            "eval.diversity_seeds": (2, inf),
            "eval.dci_train": (2, inf),
            "eval.dci_test": (1, inf),
            "eval.dci_repeats": (0, inf),
        },
    )
    if config.eval.dci_repeats == 1:
        yield problem(config, "eval.dci_repeats", "must be 0, or at least 2: one repetition has no spread")
    choices = {"eval.probe_views": ("none", "cached", "epoch"), "eval.dci_method": ("fast", "exact")}
    yield from check_choices(config, choices)
    yield from _check_names(config, "eval.evaluators", EVALUATORS)
    yield from _check_names(config, "eval.image_metrics", IMAGE_METRICS)
    yield from _check_each(config, "eval.knn_k", int, 1, inf, "numbers of neighbours, each at least 1")
    yield from _check_each(config, "eval.probe_learning_rates", float, 1e-12, inf, "learning rates above 0")
    yield from _check_each(config, "eval.few_shot_shares", float, 1e-12, 1, "shares of the labels, above 0 and up to 1")
    yield from _check_each(config, "eval.novel_view_sources", int, 1, inf, "numbers of sources, each at least 1")
    if "novel_view" in config.eval.evaluators and config.data.view_policy != "camera":
        remedy = "novel_view needs config.data.view_policy='camera' on a set with cameras; leave it out"
        yield problem(config, "eval.evaluators", remedy)
    if set(config.eval.evaluators) & set(IMAGE_EVALUATORS) and not config.eval.image_metrics:
        yield problem(config, "eval.image_metrics", f"name at least one of {', '.join(IMAGE_METRICS)}")


def _check_names(config: ConfigDict, field: str, known: tuple[str, ...]) -> Iterator[str]:
    unknown = [str(name) for name in value(config, field) if name not in known]
    if unknown:
        yield problem(config, field, f"names {', '.join(unknown)}; known are {', '.join(known)}")


def _check_each(config: ConfigDict, field: str, kind: type, low: float, high: float, described: str) -> Iterator[str]:
    """A tuple of at least one number of `kind` (whole numbers count as floats), each in [low, high]."""

    def fits(item: Any) -> bool:
        whole = isinstance(item, int) and not isinstance(item, bool)
        return (whole or (kind is float and isinstance(item, float))) and low <= item <= high

    items = value(config, field)
    if not items or not all(fits(item) for item in items):
        yield problem(config, field, f"must be {described}")
