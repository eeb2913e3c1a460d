"""Novel views: how like the truth held-out objects look to requested cameras, by the number of sources (SODA 4.2.2)."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from einops import rearrange, repeat

from soda_jax.data.datasets import Dataset
from soda_jax.data.views import ViewSpec
from soda_jax.evaluation.batches import whole_batches
from soda_jax.evaluation.image_scores import ImageMetrics, ImageScores, ImageSets
from soda_jax.evaluation.interface import MEAN_IMAGE, ImageContext
from soda_jax.evaluation.record import Figures, Results
from soda_jax.inference.engine import Inference, Variables


class Evaluator:
    """`novel_view`: `NovelView` of held-out objects and, if `config.eval.baselines`, its baselines."""

    def __init__(self, context: ImageContext):
        settings, self._trained, self._seed = context.settings, context.trained, context.seed
        self._mean_image = context.mean_image if settings.baselines else None
        self._novel_view = NovelView(
            context.inference,
            context.dataset,
            context.spec,
            counts=tuple(settings.novel_view_sources),
            num_targets=settings.novel_view_targets,
            limit=settings.novel_view_examples or None,
            metrics=context.metrics,
        )

    @property
    def num_images(self) -> int:
        return self._novel_view.num_objects

    def run(self, variables: Variables) -> Results:
        rows: Results = {self._trained: self._novel_view.run(variables, self._seed)}
        return rows | (self._novel_view.baselines(self._mean_image()) if self._mean_image else {})


class NovelView:
    """Compares samples with the views that requested cameras really have.

    The targets of an object are the same for every number of sources, and fewer sources are a subset of more, so that
    the numbers differ by the sources alone. Intervals are over objects; Frechet distances are from these very targets.

    Args:
      inference: encoder and sampler.
      dataset, spec: the held-out split and its views, of policy "camera".
      counts: numbers of sources. Those that the model or the objects cannot serve are left out, which is printed.
      num_targets: target views of each object.
      limit: objects to use, spread over the split; None is all.
      metrics: PSNR and SSIM by default.

    Raises:
      ValueError: the split has no cameras, or too few views for any of `counts`.
    """

    def __init__(
        self,
        inference: Inference,
        dataset: Dataset,
        spec: ViewSpec,
        *,
        counts: tuple[int, ...],
        num_targets: int = 1,
        limit: int | None = None,
        metrics: ImageMetrics | None = None,
    ):
        if spec.policy != "camera" or "views" not in dataset[0]:
            raise ValueError(
                "novel_view needs config.data.view_policy='camera' and a dataset of objects seen by known cameras; "
                "leave it out of config.eval.evaluators"
            )
        self._inference, self._dataset, self._limit = inference, dataset, limit
        self._num_targets = num_targets
        self._metrics = ImageMetrics.load() if metrics is None else metrics
        self.counts = self._possible(counts)
        self._spec = dataclasses.replace(spec, num_sources=num_targets - 1 + max(self.counts), min_sources=0)
        self._batch_size = inference.round_up(min(inference.sample_batch_size, self.num_objects))

    @property
    def num_objects(self) -> int:
        return len(self._dataset) if self._limit is None else min(self._limit, len(self._dataset))

    def run(self, variables: Variables, seed: int = 0) -> Figures:
        """{"novel_viewN/METRIC": figure} for N sources of each object."""
        scores = {count: ImageScores(self._metrics, over="objects") for count in self.counts}
        targets = ImageSets(self._metrics)
        first = 0
        for batch in self._batches():
            targets.add(batch["target"], batch["mask"])
            # Noise by the place in the list of targets: the same for every number of sources, and no two share it.
            views = self._novel_views(variables, batch, seed, first)
            for count, images in zip(self.counts, views, strict=True):
                scores[count].add(images, batch["target"], batch["mask"])
            first += batch["target"].shape[0] * self._num_targets
        return _joined(found.figures(f"novel_view{count}", targets) for count, found in scores.items())

    def baselines(self, mean_image: np.ndarray) -> dict[str, Figures]:
        """What needs no model, scored as in `run` on the same views, without Frechet distances.

        Args:
          mean_image: float32 [H, W, 3] in [0, 1], of the training targets (`mean_target`).

        Returns:
          Rows "nearest source", a copy of the source that looks in the direction most like the target's, and "mean
          training image".
        """
        nearest, mean = (
            {count: ImageScores(self._metrics, over="objects", frechet=False) for count in self.counts} for _ in "nm"
        )
        for batch in self._batches():
            whole = np.broadcast_to(2 * mean_image - 1, batch["target"].shape)
            rows = np.arange(len(whole))[:, None]
            for count in self.counts:
                chosen = nearest_source(batch["source_pose"][:, :count], batch["target_pose"])
                copies = batch["source_as_target"][rows, chosen].astype(np.float32) / 127.5 - 1
                nearest[count].add(copies, batch["target"], batch["mask"])
                mean[count].add(whole, batch["target"], batch["mask"])
        return {
            name: _joined(found.figures(f"novel_view{count}") for count, found in scores.items())
            for name, scores in (("nearest source", nearest), (MEAN_IMAGE, mean))
        }

    def _possible(self, counts: tuple[int, ...]) -> tuple[int, ...]:
        fewest = min(len(self._dataset[index]["views"]) for index in range(len(self._dataset)))
        most = fewest - self._num_targets
        reason = f"an object has {fewest} views, {self._num_targets} of them targets"
        if most >= 1 and len(self._inference.latent_shape) == 2 and not self._inference.model.keeps_sources:
            most, reason = 1, "a model without a bottleneck takes one source"
        possible = tuple(sorted({count for count in counts if 1 <= count <= most}))
        if not possible:
            raise ValueError(
                f"config.eval.novel_view_sources={counts}: {reason}, so that none of these numbers of sources is left; "
                "lower it, or config.eval.novel_view_targets"
            )
        for count in sorted(set(counts) - set(possible)):
            print(f"novel_view: no scores for {count} sources: {reason}")
        return possible

    def _batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Batches with `target` [B, T, ...] and its cameras, the sources that are left, and `source_as_target`, the
        sources at the targets' resolution.

        In the fixed order of an object's views the targets come first, so that more sources do not move them.
        """
        same = self._spec.source_resolution == self._spec.target_resolution
        shown_spec = dataclasses.replace(self._spec, source_resolution=self._spec.target_resolution)
        shown_batches = self._read(shown_spec)
        batches = (
            ((batch, batch) for batch in shown_batches)
            if same
            else zip(self._read(self._spec, what=None), shown_batches, strict=True)
        )
        others = self._num_targets - 1
        for batch, shown in batches:
            sources = {key: batch[f"source{key}"][:, others:] for key in ("", "_mask", "_pose", "_intrinsics")}
            targets = {
                key: np.concatenate([shown[f"target{key}"][:, None], shown[f"source{key}"][:, :others]], axis=1)
                for key in ("", "_pose", "_intrinsics")
            }
            yield (
                {f"source{key}": value for key, value in sources.items()}
                | {f"target{key}": value for key, value in targets.items()}
                | {"source_as_target": shown["source"][:, others:], "mask": batch["mask"]}
            )

    def _read(self, spec: ViewSpec, what: str | None = "novel views") -> Iterator[dict[str, np.ndarray]]:
        return whole_batches(self._dataset, spec, batch_size=self._batch_size, limit=self._limit, what=what)

    def _novel_views(self, variables: Variables, batch: dict[str, np.ndarray], seed: int, first: int) -> np.ndarray:
        """Samples for all targets from each number of sources, float32 [counts, B, T, H, W, 3] in [-1, 1]."""
        targets, number = self._num_targets, len(self.counts)
        z = [repeat(self._encode(variables, batch, count), "b ... -> (b t) ...", t=targets) for count in self.counts]
        cameras = {key: rearrange(batch[key], "b t ... -> (b t) ...") for key in ("target_pose", "target_intrinsics")}
        # Where the model relates poses to a source's, that is the first one, whatever the number of sources.
        for key in ("source_mask", "source_pose", "source_intrinsics"):
            cameras[key] = repeat(batch[key][:, :1], "b ... -> (b t) ...", t=targets)
        _, target_conditions = self._inference.conditions(
            {key: np.concatenate([value] * number) for key, value in cameras.items()}
        )
        indices = np.tile(first + np.arange(len(z[0])), number)
        sampled = self._inference.sample(variables, np.concatenate(z), seed=seed, indices=indices, **target_conditions)
        return rearrange(sampled["images"], "(n b t) h w c -> n b t h w c", n=number, t=targets)

    def _encode(self, variables: Variables, batch: dict[str, np.ndarray], count: int) -> np.ndarray:
        """Latents of the objects from their first `count` sources."""
        sources = {key: batch[key][:, :count] for key in ("source_mask", "source_pose", "source_intrinsics")}
        # `conditions` reads target cameras too: any of the object's.
        targets = {key: batch[key][:, 0] for key in ("target_pose", "target_intrinsics")}
        source_conditions, _ = self._inference.conditions(sources | targets)
        z = self._inference.encode(variables, batch["source"][:, :count], sources["source_mask"], **source_conditions)
        if self._inference.model.keeps_sources:  # absent sources are zeros: one sampler serves all numbers of them
            z = np.pad(z, ((0, 0), (0, max(self.counts) - count), (0, 0)))
        return z


def _joined(parts: Iterable[Figures]) -> Figures:
    return {name: figure for part in parts for name, figure in part.items()}


def nearest_source(source_pose: np.ndarray, target_pose: np.ndarray) -> np.ndarray:
    """Of cameras [B, n, 4, 4] the one whose viewing direction is closest to each target's, [B, T, 4, 4]: int [B, T]."""
    cosine = np.einsum("bni,bti->btn", source_pose[..., :3, 2], target_pose[..., :3, 2])
    return cosine.argmax(axis=-1)
