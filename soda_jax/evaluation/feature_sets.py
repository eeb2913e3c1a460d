"""Features of a whole split on the host: what k-NN and the offline probes work on."""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterable

import numpy as np
from einops import rearrange

from soda_jax.config.evaluators import PROBE_VIEWS
from soda_jax.data.transforms import resize
from soda_jax.data.views import ViewSpec
from soda_jax.evaluation.batches import all_gather
from soda_jax.evaluation.progress import shown
from soda_jax.models.probe import probe_labels
from soda_jax.objectives.probe import ProbeTask

PIXELS_SIDE = 64  # of the raw-pixel baseline; a probe on more has more weights than most splits have pixels
_LEAST_SIDE = 8
_CHECKED = 4096  # rows looked at together


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Features and labels of a split.

    Attributes:
      features: [N, d], kept as float32; an array in memory, or one mapped from a file.
      labels: int [N, H], one column a label.
      sizes, names: number of classes and name of each label.

    Raises:
      ValueError: no examples, lengths that differ, labels outside their classes, or features that are not finite.
    """

    features: np.ndarray
    labels: np.ndarray
    sizes: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self):
        features, labels, heads = np.asanyarray(self.features, np.float32), self.labels, len(self.sizes)
        object.__setattr__(self, "features", features)
        if features.ndim != 2 or labels.shape != (len(features), heads) or len(self.names) != heads:
            raise ValueError(
                f"features have shape {features.shape} and labels {labels.shape}: give [N, d] and [N, {heads}], "
                f"as many as there are sizes ({heads}) and names ({len(self.names)})"
            )
        if len(features) == 0:
            raise ValueError("the split has no examples: choose another, or check that its images can be read")
        for start in range(0, len(features), _CHECKED):
            finite = np.isfinite(features[start : start + _CHECKED]).all(axis=1)
            if not finite.all():
                raise ValueError(
                    f"the features of example {start + int(finite.argmin())} of {len(features)} are not finite: the "
                    "weights diverged or are damaged; evaluate another checkpoint"
                )
        for name, size, column in zip(self.names, self.sizes, labels.T, strict=True):
            if column.min() < 0 or column.max() >= size:
                raise ValueError(
                    f"label {name!r} lies in {column.min()}..{column.max()}: with {size} classes it must lie in "
                    f"0..{size - 1}"
                )

    def subset(self, rows: np.ndarray) -> "FeatureSet":
        """The examples of these rows, in memory."""
        return dataclasses.replace(self, features=np.asarray(self.features[rows]), labels=self.labels[rows])


def check_pair(train: FeatureSet, test: FeatureSet) -> None:
    """Prints which labels are of one class throughout `train`: their scores say nothing of the features.

    Raises:
      ValueError: the sets do not belong together, or every label is of one class.
    """
    if train.features.shape[1] != test.features.shape[1]:
        raise ValueError(
            f"training features have {train.features.shape[1]} dimensions and test features "
            f"{test.features.shape[1]}: extract both with the same weights and config.eval.feature"
        )
    if (train.sizes, train.names) != (test.sizes, test.names):
        raise ValueError(
            f"training labels are {train.names} of {train.sizes} classes and test labels {test.names} of "
            f"{test.sizes}: both splits must have the same"
        )
    constant = [name for name, column in zip(train.names, train.labels.T, strict=True) if np.ptp(column) == 0]
    if len(constant) == len(train.names):
        raise ValueError(
            f"all {len(train.labels)} training examples are of one class ({', '.join(constant)}): there is nothing to "
            "tell apart; use more of the split (config.eval.train_examples) or another"
        )
    if constant:
        print(f"of one class in all {len(train.labels)} training examples: {', '.join(constant)}")


def collect(
    batches: Iterable[dict[str, np.ndarray]],
    extract: Callable[[dict[str, np.ndarray]], np.ndarray],
    task: ProbeTask,
    *,
    memory_gib: float = 4.0,
    folder: str | os.PathLike | None = None,
    total: int | None = None,
) -> FeatureSet:
    """Runs `extract` on every batch and drops the padding.

    Args:
      batches: of `eval_batches`; with several processes, each passes its own part and gets the whole split.
      extract: from a batch to features [B, d] of the global batch (of all processes).
      task: which labels.
      memory_gib: features beyond this many GiB go to a file, which is mapped into memory.
      folder: where that file lies; the system's temporary folder by default. It has no name there, so that the space is
        free again as soon as the features are no longer used, however the process ends.
      total: number of batches, for the progress that is shown.

    Raises:
      ValueError: see `FeatureSet`.
    """
    store, labels = _Store(memory_gib, folder), []
    for batch in shown(batches, "features", total):
        real = all_gather(batch["mask"])
        store.append(np.asarray(extract(batch), np.float32)[real])
        labels.append(all_gather(np.asarray(probe_labels(batch, task.kind)))[real])
    if not labels:
        raise ValueError("the split has no examples: choose another, or check how it was prepared")
    return FeatureSet(store.finish(), np.concatenate(labels), task.sizes, task.names)


def raw_pixels(batch: dict[str, np.ndarray], side: int = PIXELS_SIDE) -> np.ndarray:
    """The first source view's pixels in [0, 1], flattened: the baseline that any feature must beat.

    Images of more than `side` x `side` pixels are shrunk to that, by default to 64 x 64: probes on more are hard to fit
    and would not fit in memory.
    """
    source = batch["source"][:, 0]
    if max(source.shape[1:3]) > side:
        source = np.stack([resize(image, side, side) for image in source])
    return all_gather(rearrange(source, "b h w c -> b (h w c)").astype(np.float32) / 255.0)


def pixels_side(examples: int, resolution: int, memory_gib: float) -> int:
    """The side that `raw_pixels` shrinks images of `resolution` to: those of so many examples then fit in memory.

    It is 64, or the images' own, halved until they fit, and never below 8. ImageNet's training split at 64 x 64 would
    take 59 GiB, and as much again for each set of augmented views.
    """
    side = min(resolution, PIXELS_SIDE)
    while side // 2 >= _LEAST_SIDE and 3 * 4 * side**2 * examples > memory_gib * 2**30:
        side //= 2
    return side


def probe_spec(spec: ViewSpec, crop_rate: float) -> ViewSpec:
    """The views that the probe trains on (D.4, E.1): crops and flips of the source at its own rate, no RandAugment.

    Flips stay off where `spec` has them off.

    Raises:
      ValueError: for views of cameras, which are never cropped.
    """
    if spec.policy == "camera":
        raise ValueError(
            "config.eval.probe_views: views of cameras are never cropped or flipped; set it to 'none' for "
            "config.data.view_policy='camera'"
        )
    return dataclasses.replace(
        spec,
        policy="augment",
        min_sources=0,
        augment_source=True,
        augment_target=False,
        crop_rate=crop_rate,
        randaugment_rate=0.0,
    )


def probe_views(mode: str, copies: int, extract: Callable[[int], FeatureSet]) -> Callable[[int], np.ndarray] | None:
    """Training features by epoch, for the `views` of the linear probe.

    Args:
      mode: "none": the un-augmented features, always; "cached": `copies` augmented sets, extracted now, in turn;
        "epoch": a new set each epoch.
      copies: number of cached sets.
      extract: from the number of a set to that set: other views of the same examples in the same order.

    Raises:
      ValueError: an unknown mode, or no copies.
    """
    if mode not in PROBE_VIEWS:
        raise ValueError(f"config.eval.probe_views={mode!r} is unknown; choose one of {', '.join(PROBE_VIEWS)}")
    if mode == "none":
        return None
    if mode == "epoch":
        return lambda epoch: extract(epoch).features
    if copies < 1:
        raise ValueError(f"config.eval.probe_cached_views={copies} must be at least 1")
    cached = [extract(number).features for number in range(copies)]
    return lambda epoch: cached[epoch % copies]


class _Store:
    """Rows in memory, or from `memory_gib` on in a nameless file."""

    def __init__(self, memory_gib: float, folder: str | os.PathLike | None):
        self._limit, self._folder = memory_gib * 2**30, folder
        self._rows: list[np.ndarray] = []
        self._count = self._width = self._bytes = 0
        self._file = None

    def append(self, rows: np.ndarray) -> None:
        self._count, self._width, self._bytes = self._count + len(rows), rows.shape[1], self._bytes + rows.nbytes
        self._rows.append(rows)
        if self._file is None and self._bytes > self._limit:
            self._file = tempfile.TemporaryFile(dir=self._folder)
        if self._file is not None:
            for part in self._rows:
                self._file.write(np.ascontiguousarray(part, np.float32).data)
            self._rows.clear()

    def finish(self) -> np.ndarray:
        """float32 [N, d]. A mapped array keeps its file alive."""
        if self._file is None or self._count == 0:
            return np.concatenate(self._rows)
        with self._file:
            self._file.flush()
            return np.memmap(self._file, np.float32, "r", shape=(self._count, self._width))
