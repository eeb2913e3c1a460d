"""Held-out examples of a loaded model: those that lie beside an export, and how an export gets them."""

import dataclasses

import numpy as np

from soda_jax.data.datasets.base import Dataset, class_ids_of, credit_of, get_many
from soda_jax.data.datasets.parts import Subset
from soda_jax.data.pipeline import eval_batches
from soda_jax.data.views import ViewSpec
from soda_jax.inference.cameras import Cameras
from soda_jax.inference.engine import Inference
from soda_jax.models.capabilities import LATENT, can
from soda_jax.workdir import examples as files
from soda_jax.workdir.examples import StoredExamples


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """N held-out examples, for the methods of a loaded model.

    Attributes:
      images: uint8 [N, H, W, 3], or [N, n, H, W, 3] of objects in n views each.
      labels: by kind int32 [N] ("label": the class) or [N, A] ("attributes", "factors"); {} without any.
      cameras: of the views, poses [N, n, 4, 4] with intrinsics [N, n, 4]; None where no camera is known.
      credits: where each comes from.
      licenses: of each; "" where none is said.
      codes: float32 [N, ...], what `encode(images, cameras=cameras)` gives with the run's own float32 weights; None of
        a model without a latent.
    """

    images: np.ndarray
    labels: dict[str, np.ndarray]
    cameras: Cameras | None
    credits: tuple[str, ...]
    licenses: tuple[str, ...]
    codes: np.ndarray | None

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.images.shape))
        beside = [*self.labels, *(["cameras"] if self.cameras is not None else [])]
        return f"Examples(images=[{shape}]" + (f", with {', '.join(beside)})" if beside else ")")


def read(folder: str, inference: Inference) -> Examples | None:
    """The examples of the export in `folder`; None where it has none.

    Raises:
      ValueError: they are damaged, or of another model than `inference`.
    """
    stored = files.read(folder)
    if stored is None:
        return None
    shape, model = inference.latent_shape if can(inference.model, LATENT) else None, inference.model
    if stored.codes is not None:
        found = stored.codes.shape[2:] if shape is not None and model.keeps_sources else stored.codes.shape[1:]
        if shape is None or found != tuple(shape):
            raise ValueError(f"{folder}: {files.CODES} holds codes {stored.codes.shape}, which are not this model's")
    cameras = None
    if stored.poses is not None:
        height, width = stored.images.shape[-3:-1]
        cameras = Cameras(stored.poses, stored.intrinsics, image_size=(height, width))
    return Examples(stored.images, stored.labels, cameras, stored.credits, stored.licenses, stored.codes)


def taken(dataset: Dataset, spec: ViewSpec, count: int, *, views: int, credit: str, license_id: str) -> StoredExamples:
    """Up to `count` examples of a split as evaluation shows them as sources, spread evenly over its classes, if it has
    any, and over their examples; without codes. What cannot be read is left out.

    Args:
      views: of each, where views are cameras around an object; fewer where it has fewer.
      credit: what is said of each, before its place in the split and what the dataset's own `credit` says.

    Raises:
      ValueError: none can be read.
    """
    places = spread(dataset, count)
    posed = spec.policy == "camera"
    if posed:
        available = len(get_many(dataset, places[:1])[0]["views"])
        spec = dataclasses.replace(spec, num_sources=max(1, min(views, available - 1)), min_sources=0)
    elif spec.policy == "class":  # whose target, another image of the class, is not wanted here
        spec = dataclasses.replace(spec, policy="augment", num_sources=1, min_sources=0)
    chosen = Subset(dataset, places)
    batch = next(iter(eval_batches(chosen, spec, batch_size=len(chosen))))
    seen = batch["mask"]
    if not seen.any():
        raise ValueError("--examples: none of the chosen images can be read; look at the dataset's files")
    return StoredExamples(
        images=batch["source"][seen] if posed else batch["source"][seen, 0],
        labels={kind: batch[kind][seen] for kind in dataset.labels if kind in batch},
        poses=batch["source_pose"][seen] if posed else None,
        intrinsics=batch["source_intrinsics"][seen] if posed else None,
        credits=tuple(_credited(f"{credit}, example {place}", credit_of(dataset, place)) for place in places[seen]),
        licenses=(license_id,) * int(seen.sum()),
        codes=None,
    )


def _credited(example: str, by: str) -> str:
    return f"{example}: {by}" if by else example


def spread(dataset: Dataset, count: int) -> np.ndarray:
    """Places of up to `count` examples, in order of their classes: as many of each class, as far as it goes."""
    size = len(dataset)
    count = min(count, size)
    if "label" not in dataset.labels:
        return np.arange(count) * size // count
    ids = class_ids_of(dataset)
    classes = np.unique(ids)
    shown = classes[np.arange(min(count, len(classes))) * len(classes) // min(count, len(classes))]
    members = [np.flatnonzero(ids == one) for one in shown]
    quotas = np.zeros(len(shown), int)
    while quotas.sum() < count:  # one more of each class that has one, the first classes first
        left = np.flatnonzero([quota < len(places) for quota, places in zip(quotas, members, strict=True)])
        if not len(left):
            break  # the classes that are shown have no more
        quotas[left[: count - quotas.sum()]] += 1
    return np.concatenate(
        [places[np.arange(quota) * len(places) // quota] for places, quota in zip(members, quotas, strict=True)]
    )
