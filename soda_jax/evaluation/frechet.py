"""Frechet distance between generated images and a split's, over a named network's features."""

import functools
import json
import os
import pathlib
import re
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from soda_jax import inputs
from soda_jax.data.datasets import Dataset
from soda_jax.data.pipeline import eval_batches
from soda_jax.data.views import ViewSpec
from soda_jax.evaluation.progress import num_batches, shown
from soda_jax.metrics.bootstrap import Estimate
from soda_jax.metrics.frechet import GROUPS, FeatureStatistics, frechet_distance, frechet_estimate
from soda_jax.metrics.inception import Inception
from soda_jax.parallel import sharding

PREPROCESSING = "rounded to 8 bits, [-1, 1]"
_FORMAT = 1
_SAMPLE = 8  # images whose features tell whether a file still fits
_TOLERANCE = 1e-2  # of the features' own size: devices differ by far less, networks by far more
_BLOCK = (
    4096  # features held until they are summed: summing 2048^2 products of each batch would cost more than the network
)

Extract = Callable[[jax.Array], jax.Array]


class Frechet:
    """A Frechet distance under one name, with reference statistics kept on disk.

    Args:
      extract: features [B, D] of images float32 [B, H, W, 3] in [-1, 1], jitted; images arrive split over the devices.
      name: of the figure: "fid" for the network that FID is defined by, "frechet_alexnet", ... for others.
      cache_dir: folder for reference statistics; made if needed.
      mesh: devices of this process to work on; all of them by default.

    Raises:
      ValueError: if another network's distance is to be called FID.
    """

    def __init__(self, extract: Extract, name: str, cache_dir: str | os.PathLike, mesh: Mesh | None = None):
        if name == "fid" and not isinstance(extract, Inception):
            raise ValueError(
                "name='fid' is for the features of metrics.inception alone; name the network, as in frechet_alexnet"
            )
        if isinstance(extract, Inception) and not extract.is_standard:
            print(
                f"{name}: these are not the weights that FID is defined by; compare with figures of the same file only"
            )
        self.name = name
        self._cache_dir = pathlib.Path(cache_dir)
        # Each process works on its own images: no two need agree on the number of batches.
        self._mesh = sharding.make_mesh(jax.local_devices()) if mesh is None else mesh
        self._extract = extract

    def collect(self) -> "Collector":
        """Where to add a set of images, batch by batch."""
        return Collector(self._features)

    def reference(
        self,
        dataset: Dataset,
        spec: ViewSpec,
        *,
        dataset_name: str,
        split: str,
        batch_size: int,
        limit: int | None = None,
    ) -> FeatureStatistics:
        """Statistics of a split's target views, unaugmented, from disk or computed and written there.

        A file is used if it names the same network, dataset, split, resolution, pre-processing and number of images,
        and the features of a few images are still the same: other weights, or images changed on disk, show there.

        Args:
          dataset_name, split: for the file.
          batch_size: images at a time, over all processes.
          limit: at most this many images, spread evenly over the split.

        Raises:
          ValueError: an empty split, fewer than 2 images that can be read, or features that are not finite.
        """
        header = {
            "format": _FORMAT,
            "name": self.name,
            "dataset": dataset_name,
            "split": split,
            "images": len(dataset) if limit is None else min(limit, len(dataset)),
            "split_size": len(dataset),
            "resolution": spec.target_resolution,
            "policy": spec.policy,
            "preprocessing": PREPROCESSING,
        }
        file_name = f"{self.name}_{dataset_name}_{split}_{spec.target_resolution}px.npz"
        path = self._cache_dir / re.sub(r"[^\w.-]", "-", file_name)
        sample = self._sample(dataset, spec, batch_size, header["images"])
        found = _read(path, header, sample)
        if not _all_processes(found is not None):
            found = self._compute(dataset, spec, batch_size, limit)
            if jax.process_index() == 0:
                _write(path, header, sample, found)
        return found

    def score(
        self,
        generated: "Collector",
        reference: "FeatureStatistics | Collector",
        interval: bool = True,
        over: str = "images",
    ) -> Estimate | float:
        """The distance of the generated images from the reference, over all processes.

        Args:
          over: what the units of the generated images are, "images" or "objects".

        Returns:
          The distance with its interval; without one if asked to (it takes ten times as long), or for fewer than 20
          images, or units.

        Raises:
          ValueError: for fewer than 2 images on a side, or features that are not finite.
        """
        if isinstance(reference, Collector):
            reference = _merged(reference.groups())
        groups = [group for group in generated.groups() if group.count]
        whole = _merged(groups)
        if whole.count <= len(whole.mean):
            print(
                f"{self.name}: {whole.count} images for {len(whole.mean)} features; the fewer images, the larger the "
                "distance: compare with figures of as many only"
            )
        if interval and len(groups) == GROUPS and whole.count >= 2 * GROUPS:
            return frechet_estimate(groups, reference, over)
        return frechet_distance(whole, reference)

    def _sample(self, dataset: Dataset, spec: ViewSpec, batch_size: int, total: int) -> np.ndarray:
        """Features of a few images spread over the split, [<= _SAMPLE, D]."""
        # In batches of the usual shape, for which the network is compiled anyway.
        size, count = max(batch_size // jax.process_count(), 1), min(_SAMPLE, total)
        batches = list(eval_batches(dataset, spec, batch_size=size, limit=max(count, 1)))
        return np.concatenate([self._features(batch["target"])[batch["mask"]] for batch in batches])

    def _compute(self, dataset: Dataset, spec: ViewSpec, batch_size: int, limit: int | None) -> FeatureStatistics:
        collector = self.collect()
        part = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        batches = eval_batches(dataset, spec, batch_size=batch_size, limit=limit, **part)
        for batch in shown(batches, f"reference of {self.name}", num_batches(len(dataset), limit, batch_size)):
            collector.add(batch["target"], batch["mask"])
        return _merged(collector.groups())

    def _features(self, images: np.ndarray) -> np.ndarray:
        """Features [B, D] of images uint8, or float in [-1, 1], on the devices of this process."""
        count = len(images)
        # As if read from 8-bit files, which other implementations do.
        images = images if images.dtype == np.uint8 else inputs.to_uint8(images)
        rows = np.minimum(np.arange(sharding.round_up(count, self._mesh)), count - 1)
        images = images[rows].astype(np.float32) / 127.5 - 1
        features = self._extract(jax.device_put(images, sharding.batch_sharding(self._mesh)))
        return np.asarray(features)[:count]


class Collector:
    """Statistics of the features of images that come in batches; the batches' sizes do not matter."""

    def __init__(self, features: Callable[[np.ndarray], np.ndarray]):
        self._features = features
        self._groups: list[FeatureStatistics] = []
        self._held: list[tuple[np.ndarray, np.ndarray]] = []
        self._count = 0

    def add(self, images: np.ndarray, mask: np.ndarray | None = None, units: np.ndarray | None = None) -> None:
        """Adds images [B, H, W, 3], uint8 or float in [-1, 1].

        Args:
          mask: bool [B], False on images to leave out (padding), whatever they hold.
          units: int [B], what each image is of: the interval leaves whole units out. By default each image is its own.

        Raises:
          ValueError: for images or features that are not finite, or another number of mask entries or units.
        """
        images = np.asarray(images)
        mask = np.ones(len(images), bool) if mask is None else np.asarray(mask, bool)
        given = mask if units is None else np.asarray(units)
        if mask.shape != images.shape[:1] or given.shape != images.shape[:1]:
            raise ValueError(
                f"{len(images)} images, mask {mask.shape} and units {given.shape}: give one of each an image"
            )
        if images.dtype != np.uint8:
            bad = int((~np.isfinite(images[mask])).any(axis=(1, 2, 3)).sum())
            if bad:
                raise ValueError(f"{bad} of {int(mask.sum())} images are not finite: the model's samples have diverged")
            images = np.where(mask[:, None, None, None], images, 0)
        features = self._features(images)[mask]
        units = self._count + np.arange(len(features)) if units is None else given[mask]
        self._count += len(features)
        self._held.append((features, units % GROUPS))
        while sum(len(held) for held, _ in self._held) >= _BLOCK:
            self._fold(_BLOCK)

    def groups(self) -> list[FeatureStatistics]:
        """`GROUPS` parts of the images of all processes, some of which may be empty.

        Raises:
          ValueError: if nothing was added, not even padding.
        """
        self._fold(_BLOCK)
        if not self._groups:
            raise ValueError("no image was added: the split is empty")
        return [over_processes(group) for group in self._groups]

    def _fold(self, count: int) -> None:
        """Sums the first `count` features held."""
        if not self._held:
            return
        features, numbers = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
        self._held = [(features[count:], numbers[count:])] if len(features) > count else []
        features, numbers = features[:count], numbers[:count]
        new = [FeatureStatistics.of(features[numbers == number]) for number in range(GROUPS)]
        old = self._groups or [FeatureStatistics.of(features[:0])] * GROUPS
        self._groups = [a.merge(b) for a, b in zip(old, new, strict=True)]


def over_processes(statistics: FeatureStatistics) -> FeatureStatistics:
    """The statistics of the sets of all processes together, on each of them; each must call this."""
    if jax.process_count() == 1:
        return statistics
    # As bits: JAX would round float64 to float32.
    values = np.concatenate([[statistics.count], statistics.mean, statistics.scatter.ravel()])
    gathered = multihost_utils.process_allgather(values.astype(np.float64).view(np.uint32))
    size = len(statistics.mean)
    parts = [
        FeatureStatistics(int(row[0]), row[1 : size + 1], row[size + 1 :].reshape(size, size))
        for row in np.ascontiguousarray(gathered).view(np.float64)
    ]
    return functools.reduce(FeatureStatistics.merge, parts)


def _all_processes(value: bool) -> bool:
    return bool(np.all(multihost_utils.process_allgather(np.array(value)))) if jax.process_count() > 1 else value


def _merged(groups: list[FeatureStatistics]) -> FeatureStatistics:
    whole = functools.reduce(FeatureStatistics.merge, groups) if groups else None
    if whole is None or whole.count < 2:
        raise ValueError(
            f"a Frechet distance needs at least 2 images on each side, and here are {whole.count if whole else 0}: "
            "take more images, or see why they cannot be read"
        )
    return whole


def _read(path: pathlib.Path, header: dict[str, Any], sample: np.ndarray) -> FeatureStatistics | None:
    """The statistics in a file, or None, saying why it does not serve."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            found, old_sample = json.loads(str(file["header"])), file["sample"]
            statistics = FeatureStatistics(int(file["count"]), file["mean"], file["scatter"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        print(f"{path}: damaged ({error}); computing the reference statistics anew")
        return None
    other = [f"{key} {found.get(key)!r}, not {value!r}" for key, value in header.items() if found.get(key) != value]
    if not other and not _alike(old_sample, sample):
        other = ["other features of the same images: the weights or the images have changed"]
    if other:
        print(f"{path} is of {'; '.join(other)}; computing the reference statistics anew")
        return None
    return statistics


def _alike(old: np.ndarray, new: np.ndarray) -> bool:
    return old.shape == new.shape and bool(np.linalg.norm(old - new) <= _TOLERANCE * np.linalg.norm(new))


def _write(path: pathlib.Path, header: dict[str, Any], sample: np.ndarray, statistics: FeatureStatistics) -> None:
    """Under another name first: no reader finds half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            np.savez(
                file,
                header=json.dumps(header),
                sample=sample,
                count=statistics.count,
                mean=statistics.mean,
                scatter=statistics.scatter,
            )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
