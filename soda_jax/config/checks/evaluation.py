"""Checks of what --mode=evaluate, and training's own evaluations, read."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from soda_jax.config.checks.rules import EachItem, check_choices, check_items, check_names, check_ranges, problem
from soda_jax.config.evaluators import EVALUATORS, wanted
from soda_jax.metrics.registry import IMAGE_METRICS
from soda_jax.models.families import FAMILIES


def check(config: ConfigDict) -> Iterator[str]:
    """Problems of `config.eval`: fields that evaluators share, and those of each, whether it is to run or not."""
    inf = float("inf")
    yield from check_ranges(
        config,
        {
            "eval.batch_size": (1, inf),
            "eval.num_examples": (0, inf),
            "eval.train_examples": (0, inf),
            "eval.test_examples": (0, inf),
            "eval.feature_memory_gib": (1e-3, inf),
            "eval.denoiser_examples": (0, inf),
        },
    )
    levels = EachItem(float, 0, 1, "noise levels, shares of the timesteps between 0 and 1")
    yield from check_items(config, {"eval.denoiser_levels": levels})
    yield from check_names(config, "eval.evaluators", EVALUATORS)
    yield from check_names(config, "eval.image_metrics", IMAGE_METRICS)
    for name, entry in EVALUATORS.items():
        yield from check_ranges(config, entry.ranges)
        yield from check_choices(config, entry.choices)
        yield from check_items(config, entry.items)
        yield from entry.check(config)
        if name in config.eval.evaluators and "cameras" in entry.needs and config.data.view_policy != "camera":
            remedy = f"{name} needs config.data.view_policy='camera' on a set with cameras; leave it out"
            yield problem(config, "eval.evaluators", remedy)
    if config.model.family not in FAMILIES:
        return  # which is reported elsewhere
    if wanted(config, "images") and not config.eval.image_metrics:
        yield problem(config, "eval.image_metrics", f"name at least one of {', '.join(IMAGE_METRICS)}")
