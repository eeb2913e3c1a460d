"""Features of a whole split on the host: what k-NN and the offline probe work on."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from soda_jax.models.probe import probe_targets
from soda_jax.train_step import ProbeTask


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Features and targets of a split.

    Attributes:
      features: float32 [N, d].
      targets: int [N, H], one column a target.
      sizes, names: number of classes and name of each target.
    """

    features: np.ndarray
    targets: np.ndarray
    sizes: tuple[int, ...]
    names: tuple[str, ...]


def collect(
    batches: Iterable[dict[str, np.ndarray]],
    extract: Callable[[dict[str, np.ndarray]], np.ndarray],
    task: ProbeTask,
) -> FeatureSet:
    """Runs `extract` on every batch and drops the padding; one process only."""
    features, targets = [], []
    for batch in batches:
        real = batch["mask"]
        features.append(np.asarray(extract(batch), np.float32)[real])
        targets.append(np.asarray(probe_targets(batch, task.kind))[real])
    return FeatureSet(np.concatenate(features), np.concatenate(targets), task.sizes, task.names)


def raw_pixels(batch: dict[str, np.ndarray]) -> np.ndarray:
    """The first source view's pixels in [0, 1], flattened: the baseline that any feature must beat."""
    source = batch["source"][:, 0]
    return source.reshape(len(source), -1).astype(np.float32) / 255.0
