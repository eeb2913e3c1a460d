"""Source and target views of an example (the paper's section 3.3)."""

import dataclasses
import functools

import numpy as np

from soda_jax.data import transforms
from soda_jax.data.sources.base import Example

POLICIES = ("augment", "same", "camera")
_TARGET_KEYS = ("label", "attributes", "factors")


@dataclasses.dataclass(frozen=True)
class ViewSpec:
    """How views are made of an example.

    Attributes:
        policy: "augment": sources and target are independent augmentations of one image;
            "same": source and target are one augmentation of it (autoencoding); "camera": sources
            and target are different cameras on one object, never augmented.
        num_sources: n, the number of source views.
        source_resolution: side of a source view, in pixels.
        target_resolution: side of the target view, in pixels.
        augment_source: whether sources are cropped and flipped, or only centre-cropped.
        augment_target: the same for the target.
        crop_rate: share of the views that crop+flip is applied to (the paper: .95).
        crop_scale: range of the share of the image's area that a crop covers.
        flip: whether half of the augmented views are mirrored.
    """

    policy: str = "augment"
    num_sources: int = 1
    source_resolution: int = 64
    target_resolution: int = 64
    augment_source: bool = True
    augment_target: bool = True
    crop_rate: float = 0.95
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True

    def __post_init__(self):
        object.__setattr__(self, "crop_scale", tuple(self.crop_scale))
        if self.policy not in POLICIES:
            raise ValueError(f"policy={self.policy!r} is unknown; choose one of {POLICIES}.")
        for field in ("num_sources", "source_resolution", "target_resolution"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        if not 0 <= self.crop_rate <= 1:
            raise ValueError(f"crop_rate={self.crop_rate} must lie in 0..1.")
        if len(self.crop_scale) != 2 or not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale={self.crop_scale} must be (low, high), 0 < low <= high <= 1.")
        if self.policy == "same" and self.num_sources != 1:
            raise ValueError(f"num_sources={self.num_sources}: policy='same' has exactly 1.")
        if self.policy == "same" and self.augment_source != self.augment_target:
            raise ValueError(
                "augment_source and augment_target differ: policy='same' shows one augmentation "
                "as both, set them alike."
            )


def make_views(example: Example, rng: np.random.Generator, spec: ViewSpec) -> Example:
    """Training views of one example: random augmentations, or random cameras.

    Of a multi-view example, policies "augment" and "same" use one view drawn at random.

    Returns:
        `source` uint8 [n, h, w, 3], `source_mask` bool [n] (True), `target` uint8 [H, W, 3], the
        example's label/attributes/factors, and for "camera" the poses and intrinsics of both.
    """
    if spec.policy == "camera":
        views = _views_of(example, spec)
        chosen = rng.permutation(len(views))[: spec.num_sources + 1]
        return _camera_views(example, views, chosen[:-1], chosen[-1], spec)
    image = example["image"] if "image" in example else _random_view(example["views"], rng)
    height, width = image.shape[:2]

    def draw(augment):
        if not augment:
            return transforms.centre_crop(height, width)
        return transforms.random_crop(height, width, rng, rate=spec.crop_rate, scale=spec.crop_scale, flip=spec.flip)

    source_crops = [draw(spec.augment_source) for _ in range(spec.num_sources)]
    target_crop = source_crops[0] if spec.policy == "same" else draw(spec.augment_target)
    return _cropped_views(example, image, source_crops, target_crop, spec)


def eval_views(example: Example, spec: ViewSpec) -> Example:
    """Views for evaluation, without randomness; keys as in `make_views`.

    Images are centre-cropped. For "camera" the views come from a fixed order: the target is the
    same for every number of sources, and fewer sources are a subset of more.
    """
    if spec.policy == "camera":
        views = _views_of(example, spec)
        order = _eval_order(len(views))
        return _camera_views(example, views, order[1 : spec.num_sources + 1], order[0], spec)
    image = example["image"] if "image" in example else example["views"][0]["image"]
    crop = transforms.centre_crop(*image.shape[:2])
    return _cropped_views(example, image, [crop] * spec.num_sources, crop, spec)


@functools.lru_cache
def _eval_order(num_views: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(num_views)).permutation(num_views)


def _random_view(views, rng: np.random.Generator) -> np.ndarray:
    return views[int(rng.integers(len(views)))]["image"]


def _views_of(example: Example, spec: ViewSpec):
    if "views" not in example:
        raise ValueError(
            "policy='camera' needs a multi-view source (scenes_free, ...); this one has single "
            "images: choose policy 'augment' or 'same'."
        )
    views = example["views"]
    if len(views) <= spec.num_sources:
        raise ValueError(
            f"num_sources={spec.num_sources} sources and a target need {spec.num_sources + 1} "
            f"views, an object has {len(views)}; lower num_sources."
        )
    return views


def _carried(example: Example) -> Example:
    return {key: example[key] for key in _TARGET_KEYS if key in example}


def _cropped_views(example, image, source_crops, target_crop, spec) -> Example:
    sources = [transforms.apply_crop(image, crop, spec.source_resolution) for crop in source_crops]
    return {
        "source": sources[0][None] if len(sources) == 1 else np.stack(sources),
        "source_mask": np.ones(len(sources), bool),
        "target": transforms.apply_crop(image, target_crop, spec.target_resolution),
        **_carried(example),
    }


def _camera_views(example, views, source_numbers, target_number, spec) -> Example:
    def fetch(number, resolution):
        view = views[int(number)]
        crop = transforms.centre_crop(*view["image"].shape[:2])
        return (
            transforms.apply_crop(view["image"], crop, resolution),
            np.asarray(view["pose"], np.float32),
            transforms.crop_intrinsics(view["intrinsics"], crop, resolution),
        )

    sources = [fetch(number, spec.source_resolution) for number in source_numbers]
    images, poses, intrinsics = (np.stack(part) for part in zip(*sources, strict=True))
    target, target_pose, target_intrinsics = fetch(target_number, spec.target_resolution)
    return {
        "source": images,
        "source_mask": np.ones(len(sources), bool),
        "target": target,
        "source_pose": poses,
        "source_intrinsics": intrinsics,
        "target_pose": target_pose,
        "target_intrinsics": target_intrinsics,
        **_carried(example),
    }
