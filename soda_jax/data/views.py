"""Source and target views of an example (the paper's section 3.3)."""

import dataclasses
from typing import NamedTuple

import numpy as np

from soda_jax.data import transforms
from soda_jax.data.datasets.base import Example
from soda_jax.data.decode import EncodedImage
from soda_jax.data.randaugment import MAX_MAGNITUDE, Operation, apply_operations, draw_operations
from soda_jax.data.transforms import Crop

POLICIES = ("augment", "same", "camera", "class")
_LABEL_KEYS = ("label", "attributes", "factors")
_CAMERA_BYTES = 4 * (16 + 4) + 1  # pose, intrinsics and mask
_LABEL_BYTES = 256


@dataclasses.dataclass(frozen=True)
class ViewSpec:
    """How views are made of an example.

    Attributes:
        policy: "augment": sources and target are independent augmentations of one image;
            "same": source and target are one augmentation of it (autoencoding); "camera": sources
            and target are different cameras on one object, never augmented; "class": as "augment",
            but the target is of another image of the same class.
        num_sources: n, the number of source views.
        min_sources: every step of training shows a uniformly random number of sources, `min_sources`..n
            (`source_counts`); 0: always n. Evaluation shows n.
        source_resolution: side of a source view, in pixels.
        target_resolution: side of the target view, in pixels.
        augment_source: whether sources are cropped, flipped and distorted, or only centre-cropped.
        augment_target: the same for the target.
        crop_rate: share of the views that crop+flip is applied to (the paper: .95).
        crop_scale: range of the share of the image's area that a crop covers.
        flip: whether half of the augmented views are mirrored.
        eval_crop: side of the centred square that sources show in evaluation, as a share of the short side; below
            1 not for policy "camera". The target shows the whole square, except for policy "same".
        randaugment_rate: share of the views that RandAugment is applied to, after the crop (the
            paper: .65 on ImageNet).
        randaugment_ops: number of its operations.
        randaugment_magnitude: mean of their strengths, 0..10.
        randaugment_std: standard deviation of their strengths.
    """

    policy: str = "augment"
    num_sources: int = 1
    min_sources: int = 0
    source_resolution: int = 64
    target_resolution: int = 64
    augment_source: bool = True
    augment_target: bool = True
    crop_rate: float = 0.95
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    eval_crop: float = 1.0
    randaugment_rate: float = 0.0
    randaugment_ops: int = 2
    randaugment_magnitude: float = 9.0
    randaugment_std: float = 0.5

    def __post_init__(self):
        object.__setattr__(self, "crop_scale", tuple(self.crop_scale))
        if self.policy not in POLICIES:
            raise ValueError(f"policy={self.policy!r} is unknown; choose one of {POLICIES}.")
        for field in ("num_sources", "source_resolution", "target_resolution", "randaugment_ops"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        if not 0 <= self.min_sources <= self.num_sources:
            raise ValueError(f"min_sources={self.min_sources} must lie in 0..num_sources={self.num_sources}.")
        for field in ("crop_rate", "randaugment_rate"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{field}={getattr(self, field)} must lie in 0..1.")
        if not 0 <= self.randaugment_magnitude <= MAX_MAGNITUDE:
            raise ValueError(f"randaugment_magnitude={self.randaugment_magnitude} must lie in 0..{MAX_MAGNITUDE:g}.")
        if self.randaugment_std < 0:
            raise ValueError(f"randaugment_std={self.randaugment_std} must be at least 0.")
        if len(self.crop_scale) != 2 or not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale={self.crop_scale} must be (low, high), 0 < low <= high <= 1.")
        if not 0 < self.eval_crop <= 1:
            raise ValueError(f"eval_crop={self.eval_crop} must be more than 0 and at most 1.")
        if self.policy == "camera" and self.eval_crop != 1:
            raise ValueError(f"eval_crop={self.eval_crop}: policy='camera' shows whole views; set eval_crop=1.")
        if self.policy == "same" and self.num_sources != 1:
            raise ValueError(f"num_sources={self.num_sources}: policy='same' has exactly 1.")
        if self.policy == "same" and self.augment_source != self.augment_target:
            raise ValueError(
                "augment_source and augment_target differ: policy='same' shows one augmentation "
                "as both, set them alike."
            )

    @property
    def source_counts(self) -> range:
        """The numbers of sources that a step of training may show."""
        return range(self.min_sources or self.num_sources, self.num_sources + 1)

    @property
    def example_bytes(self) -> int:
        """Bytes of the views of an example that shows all n sources, with windows or cameras and a few labels."""
        pixels = self.num_sources * self.source_resolution**2 + self.target_resolution**2
        return 3 * pixels + _CAMERA_BYTES * (self.num_sources + 1) + _LABEL_BYTES


class _View(NamedTuple):
    """What is to be shown of an image: a crop, resized to a square of side `resolution`, distorted."""

    crop: Crop
    resolution: int
    operations: tuple[Operation, ...] = ()


def make_views(
    example: Example,
    rng: np.random.Generator,
    spec: ViewSpec,
    partner: Example | None = None,
    num_sources: int | None = None,
) -> Example:
    """Training views of one example: random augmentations, or random cameras.

    Of a multi-view example, policies other than "camera" use one view drawn at random.

    Args:
        example: of a dataset; its images may be arrays or `EncodedImage`s.
        rng: of everything random.
        partner: for policy "class", the example that the target is made of.
        num_sources: shows the first so many sources alone, and decodes no other; the target stays the
            same. None: all.

    Returns:
        `source` uint8 [n, h, w, 3], `source_mask` bool [n] (True), `target` uint8 [H, W, 3], the
        example's label/attributes/factors, and the poses and intrinsics (policy "camera") or else
        the windows of both. A window tells nothing of RandAugment's shifts.

    Raises:
        DecodeError: an image cannot be read.
    """
    if spec.policy == "camera":
        views = _views_of(example, spec)
        chosen = rng.permutation(len(views))[: spec.num_sources + 1]
        return _camera_views(example, views, chosen[:-1][:num_sources], chosen[-1], spec)
    return _augmented_views(example, rng, spec, partner, num_sources)


def eval_views(example: Example, spec: ViewSpec, partner: Example | None = None, *, index: int = 0) -> Example:
    """Views for evaluation, without randomness; arguments and keys as in `make_views`.

    Images are centre-cropped (sources by `spec.eval_crop`), all sources present. For "camera" the views come in an
    order that the example's `index` alone decides (sets like NMR have the same cameras for every object, of which all
    should be targets): the target is the same for every number of sources, and fewer sources are a subset of more.
    """
    if spec.policy == "camera":
        views = _views_of(example, spec)
        order = np.random.default_rng((len(views), index)).permutation(len(views))
        return _camera_views(example, views, order[1 : spec.num_sources + 1], order[0], spec)
    image = example["image"] if "image" in example else example["views"][0]["image"]
    target_image = image
    if spec.policy == "class":
        partner = _required(partner)
        target_image = partner["image"] if "image" in partner else partner["views"][0]["image"]
    source = _View(transforms.centre_crop(*image.shape[:2], spec.eval_crop), spec.source_resolution)
    target_share = spec.eval_crop if spec.policy == "same" else 1.0
    target = _View(transforms.centre_crop(*target_image.shape[:2], target_share), spec.target_resolution)
    return _image_views(example, image, [source] * spec.num_sources, target_image, target)


def _augmented_views(example, rng, spec, partner, num_sources) -> Example:
    image = _random_image(example, rng)
    target_image = _random_image(_required(partner), rng) if spec.policy == "class" else image

    def crop(of_image, augment):
        height, width = of_image.shape[:2]
        if not augment:
            return transforms.centre_crop(height, width)
        return transforms.random_crop(height, width, rng, rate=spec.crop_rate, scale=spec.crop_scale, flip=spec.flip)

    def distortion(augment):
        if not augment or spec.randaugment_rate == 0 or rng.random() >= spec.randaugment_rate:
            return ()
        return draw_operations(
            rng,
            count=spec.randaugment_ops,
            magnitude=spec.randaugment_magnitude,
            magnitude_std=spec.randaugment_std,
        )

    crops = [crop(image, spec.augment_source) for _ in range(spec.num_sources)]
    target_crop = crops[0] if spec.policy == "same" else crop(target_image, spec.augment_target)
    distortions = [distortion(spec.augment_source) for _ in range(spec.num_sources)]
    target_distortion = distortions[0] if spec.policy == "same" else distortion(spec.augment_target)
    sources = [
        _View(one_crop, spec.source_resolution, operations)
        for one_crop, operations in zip(crops, distortions, strict=True)
    ]
    target = _View(target_crop, spec.target_resolution, target_distortion)
    return _image_views(example, image, sources[:num_sources], target_image, target)


def _random_image(example: Example, rng: np.random.Generator):
    if "image" in example:
        return example["image"]
    views = example["views"]
    return views[int(rng.integers(len(views)))]["image"]


def _required(partner: Example | None) -> Example:
    if partner is None:
        raise ValueError("policy='class' needs a partner: another example of the same class.")
    return partner


def _views_of(example: Example, spec: ViewSpec):
    if "views" not in example:
        raise ValueError(
            "policy='camera' needs a multi-view dataset (scenes_free, ...); this one has single "
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
    return {key: example[key] for key in _LABEL_KEYS if key in example}


def _show(image: np.ndarray | EncodedImage, views: list[_View]) -> tuple[list[np.ndarray], list[Crop]]:
    """Decodes `image` once, as small as the views allow.

    Returns:
        The views' pixels uint8 [resolution, resolution, 3], and their crops in the coordinates of the
        full-sized image: at reduced size, these are moved to whole pixels of the smaller image.
    """
    crops = [view.crop for view in views]
    reduction = 1
    if isinstance(image, EncodedImage):
        reduction = image.reduction(min(min(v.crop.height, v.crop.width) / v.resolution for v in views))
        if reduction > 1:
            crops = [transforms.snap(crop, reduction, *image.shape[:2]) for crop in crops]
        image = image.decode(reduction)
    pixels = []
    for view, crop in zip(views, crops, strict=True):
        if reduction > 1:
            crop = Crop(*(edge // reduction for edge in crop[:4]), crop.flip)
        pixels.append(apply_operations(transforms.apply_crop(image, crop, view.resolution), view.operations))
    return pixels, crops


def _image_views(example, image, sources: list[_View], target_image, target: _View) -> Example:
    source_shape, target_shape = image.shape[:2], target_image.shape[:2]
    if image is target_image:
        pixels, crops = _show(image, [*sources, target])
    else:
        pixels, crops = (
            sum(parts, []) for parts in zip(_show(image, sources), _show(target_image, [target]), strict=True)
        )
    return {
        "source": np.stack(pixels[:-1]) if len(sources) > 1 else pixels[0][None],
        "source_mask": np.ones(len(sources), bool),
        "source_window": np.stack([transforms.crop_window(crop, *source_shape) for crop in crops[:-1]]),
        "target": pixels[-1],
        "target_window": transforms.crop_window(crops[-1], *target_shape),
        **_carried(example),
    }


def _camera_views(example, views, source_numbers, target_number, spec) -> Example:
    def fetch(number, resolution):
        view = views[int(number)]
        (pixels,), (crop,) = _show(view["image"], [_View(transforms.centre_crop(*view["image"].shape[:2]), resolution)])
        return (
            pixels,
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
