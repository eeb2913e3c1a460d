"""Scores of sampled images against references by the metrics that a config names, batch by batch."""

import dataclasses
import os
from collections.abc import Callable, Iterable

import numpy as np
from einops import rearrange, reduce, repeat

from soda_jax.evaluation.batches import all_gather_rows, rows_of_this_process
from soda_jax.evaluation.frechet import Collector, Frechet
from soda_jax.evaluation.record import Figures
from soda_jax.metrics.bootstrap import bootstrap, mean_estimate
from soda_jax.metrics.frechet import FeatureStatistics
from soda_jax.metrics.registry import IMAGE_METRICS, Pairwise, Weights

Reference = Callable[[Frechet], FeatureStatistics | Collector]


@dataclasses.dataclass(frozen=True)
class ImageMetrics:
    """The metrics asked for, with their weights loaded.

    Attributes:
      pairwise: from images and references, float32 [B, H, W, 3] in [-1, 1], to a value of each pair, [B]; some are not
        averaged but pooled (`metrics.registry`).
      frechet: distances between sets of images.
    """

    pairwise: dict[str, Pairwise]
    frechet: dict[str, Frechet]

    @classmethod
    def load(
        cls,
        names: tuple[str, ...] = ("psnr", "ssim"),
        *,
        lpips_weights: str = "",
        inception_weights: str = "",
        cache_dir: str | os.PathLike = "",
    ) -> "ImageMetrics":
        """The metrics `names`, of `metrics.registry.IMAGE_METRICS`.

        Args:
          lpips_weights, inception_weights: where the networks' weights are (`config.eval`).
          cache_dir: folder for the reference statistics of Frechet distances.

        Raises:
          ValueError: an unknown name, or weights that are missing, damaged or of another network.
        """
        pairwise, frechet = {}, {}
        weights = Weights(lpips_weights, inception_weights)
        for name in names:
            if name not in IMAGE_METRICS:
                known = ", ".join(IMAGE_METRICS)
                raise ValueError(f"image metric {name!r} is unknown (config.eval.image_metrics); known are {known}")
            metric = IMAGE_METRICS[name]
            if metric.network is None:
                pairwise[name] = metric.pairs(weights)
            else:
                frechet[name] = Frechet(metric.network(weights), name, cache_dir)
        return cls(pairwise, frechet)


class ImageScores:
    """Scores of images that come in batches; batches' sizes and padding do not matter.

    Args:
      metrics: which.
      over: what the leading axis counts: "images" or "objects".
      frechet: False leaves the Frechet distances out.
    """

    def __init__(self, metrics: ImageMetrics, over: str = "images", frechet: bool = True):
        self._metrics, self._over = metrics, over
        self._values: dict[str, list[np.ndarray]] = {name: [] for name in metrics.pairwise}
        self._sets = ImageSets(metrics) if frechet else None

    def add(self, images: np.ndarray, references: np.ndarray, mask: np.ndarray) -> None:
        """Adds a batch, the same in every process, of which each scores its part.

        Args:
          images: float [B, H, W, 3] in [-1, 1], or [B, T, H, W, 3]: T images of each.
          references: uint8 of the same shape.
          mask: bool [B]; what lies where it is False is left out, whatever it holds.
        """
        images, per_unit = np.asarray(images, np.float32), images.shape[1] if images.ndim == 5 else 1
        own = rows_of_this_process()
        flat, truth = (_flat(x[own]) for x in (images, np.asarray(references)))
        real = repeat(mask[own], "b -> (b t)", t=per_unit)
        unit = truth.astype(np.float32) / 127.5 - 1
        flat = np.where(real[:, None, None, None], flat, unit)  # padding must not stop the run where it is no number
        for name, metric in self._metrics.pairwise.items():
            values = reduce(metric(flat, unit), "(b t) -> b", "mean", t=per_unit)
            self._values[name].append(all_gather_rows(values)[mask])
        if self._sets is not None:
            self._sets.add(images, mask)

    def figures(self, prefix: str, reference: Reference | None = None) -> Figures:
        """{"PREFIX/METRIC": figure}, with 95 % intervals over the leading axis.

        Args:
          reference: the statistics of real images for a Frechet distance, or a `Collector` of them; needed if there are
            such distances.

        Raises:
          ValueError: nothing was added, or figures are not finite.
        """
        figures: Figures = {}
        for name, parts in self._values.items():
            values = np.concatenate(parts) if parts else np.zeros(0)
            pool = IMAGE_METRICS[name].pool
            figures[f"{prefix}/{name}"] = (
                mean_estimate(values, over=self._over) if pool is None else bootstrap(pool, values, over=self._over)
            )
        for name, frechet in self._metrics.frechet.items() if self._sets is not None else ():
            figures[f"{prefix}/{name}"] = frechet.score(self._sets(frechet), reference(frechet), over=self._over)
        return figures


class ImageSets:
    """What Frechet distances need of a set of images that comes in batches, the same in every process."""

    def __init__(self, metrics: ImageMetrics):
        self._collectors = {name: frechet.collect() for name, frechet in metrics.frechet.items()}
        self._count = 0

    def __call__(self, frechet: Frechet) -> Collector:
        """The images added, for one distance."""
        return self._collectors[frechet.name]

    def add(self, images: np.ndarray, mask: np.ndarray) -> None:
        """Adds images [B, H, W, 3] or [B, T, H, W, 3], uint8 or in [-1, 1], where mask [B] is True."""
        per_unit, own = images.shape[1] if images.ndim == 5 else 1, rows_of_this_process()
        units = repeat((self._count + np.arange(len(mask)))[own], "b -> (b t)", t=per_unit)
        real = repeat(mask[own], "b -> (b t)", t=per_unit)
        for collector in self._collectors.values():  # distances add up what the processes give
            collector.add(_flat(images[own]), real, units)
        self._count += len(mask)


def _flat(images: np.ndarray) -> np.ndarray:
    """[B * T, H, W, 3] from [B, T, H, W, 3]; [B, H, W, 3] as it is."""
    return rearrange(images, "b t h w c -> (b t) h w c") if images.ndim == 5 else images


def mean_target(batches: Iterable[dict[str, np.ndarray]]) -> np.ndarray:
    """Mean of the batches' targets, float32 [H, W, 3] in [0, 1]."""
    total, count = 0.0, 0
    for batch in batches:
        total = total + batch["target"].sum(axis=0, dtype=np.float64)
        count += len(batch["target"])
    return (total / (255.0 * count)).astype(np.float32)
