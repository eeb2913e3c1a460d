"""RandAugment (Cubuk et al., arXiv:1909.13719; the paper's Table 12): a few random distortions in a row.

The fifteen operations and their strengths are those of timm's `rand-m9-mstd0.5-inc1`
(huggingface/pytorch-image-models, timm/data/auto_augment.py), the usual ImageNet recipe: magnitude
9 of 10 with a standard deviation of .5, and "increasing" strengths, with which a larger magnitude
always changes the image more. (In the first published code larger magnitudes posterised and
solarised less, and small ones lowered contrast, colour, brightness and sharpness where large ones
raised them.)
The paper gives only the operations' number, magnitude and standard deviation; the rest is our
choice. Beyond timm:

- Every drawn operation is applied, as in the RandAugment paper; timm skips each with probability
  one half.
- Posterize keeps at least one bit; at magnitude 10 timm keeps none, and the image turns black.
- Geometry is resampled bilinearly (shifts go by whole pixels), and filled with ImageNet's mean colour.

OpenCV does the work: at 256 px .11 ms an operation on average, where Pillow's take .8, for the same
image up to rounding. Libraries that have RandAugment need PyTorch or TensorFlow (timm, torchvision, kornia,
keras-cv), are no longer maintained (imgaug, albumentations) or AGPL (albumentationsx).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

MAX_MAGNITUDE = 10.0
OPERATIONS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
)

_MAX_DEGREES = 30.0
_MAX_SHEAR = 0.3
_MAX_TRANSLATION = 0.45  # of the image's side
_MAX_ENHANCEMENT = 0.9
_MAX_SOLAR_ADDITION = 110
_FILL = (124, 116, 104)
_LEVELS = np.arange(256)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


class Operation(NamedTuple):
    """An operation and how strongly it acts.

    Attributes:
        name: one of OPERATIONS.
        amount: Rotate: degrees, counter-clockwise. ShearX, ShearY: pixels a pixel. TranslateX,
            TranslateY: share of the side by which the content moves left, up. Posterize: bits
            kept. Solarize: level from which levels are inverted. SolarizeAdd: addition to levels
            below 128. Color, Contrast, Brightness, Sharpness: factor, 1 changes nothing. The
            others have none.
    """

    name: str
    amount: float = 0.0


def draw_operations(
    rng: np.random.Generator, *, count: int, magnitude: float, magnitude_std: float
) -> tuple[Operation, ...]:
    """Draws `count` operations, with replacement, each with its own strength.

    Args:
        magnitude: mean strength, 0..10.
        magnitude_std: standard deviation of the strength, which is clipped to 0..10.
    """
    chosen = rng.integers(2 * len(OPERATIONS), size=count).tolist()
    drawn = []
    for choice, noise in zip(chosen, rng.standard_normal(count).tolist(), strict=True):
        name, sign = OPERATIONS[choice // 2], 1.0 if choice % 2 else -1.0
        strength = min(max(magnitude + magnitude_std * noise, 0.0), MAX_MAGNITUDE)
        drawn.append(Operation(name, amount(name, strength, sign)))
    return tuple(drawn)


def amount(name: str, strength: float, sign: float) -> float:
    """The `Operation.amount` of a strength 0..10, in the direction `sign`, -1 or 1, where it has two."""
    share = strength / MAX_MAGNITUDE
    if name == "Rotate":
        return sign * share * _MAX_DEGREES
    if name in ("ShearX", "ShearY"):
        return sign * share * _MAX_SHEAR
    if name in ("TranslateX", "TranslateY"):
        return sign * share * _MAX_TRANSLATION
    if name == "Posterize":
        return max(1, 4 - int(share * 4))
    if name == "Solarize":
        return 256 - int(share * 256)
    if name == "SolarizeAdd":
        return int(share * _MAX_SOLAR_ADDITION)
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return max(0.1, 1 + sign * share * _MAX_ENHANCEMENT)
    return 0.0


def apply_operations(image: np.ndarray, operations: Sequence[Operation]) -> np.ndarray:
    """Applies the operations one after another to uint8 [h, w, 3] RGB; the input is left as it is."""
    for operation in operations:
        image = _FUNCTIONS[operation.name](image, operation.amount)
    return image


def _auto_contrast(image: np.ndarray, _: float) -> np.ndarray:
    return cv2.merge([_stretch(channel) for channel in cv2.split(image)])


def _equalize(image: np.ndarray, _: float) -> np.ndarray:
    return cv2.merge([_flatten(channel) for channel in cv2.split(image)])


def _invert(image: np.ndarray, _: float) -> np.ndarray:
    return cv2.bitwise_not(image)


def _posterize(image: np.ndarray, bits: float) -> np.ndarray:
    return image & np.uint8(256 - 2 ** (8 - int(bits)))


def _solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    if threshold > 255:
        return image
    return image ^ -(image >= np.uint8(threshold)).view(np.uint8)  # The negative of 1 has all bits set.


def _solarize_add(image: np.ndarray, addition: float) -> np.ndarray:
    return image + (image < 128).view(np.uint8) * np.uint8(addition)  # At most 127 + 110: no overflow.


def _color(image: np.ndarray, factor: float) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return cv2.addWeighted(image, factor, image, 0, (1 - factor) * mean)


def _brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.convertScaleAbs(image, alpha=factor)


def _sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    # Away from Pillow's smooth image: the mean of 3 x 3 pixels, of which the middle one counts 5 times.
    mean, middle = (1 - factor) * 9 / 13, (1 - factor) * 4 / 13
    result = cv2.addWeighted(image, factor + middle, cv2.blur(image, (3, 3)), mean, 0)
    for edge in (0, -1):  # The outermost pixels stay, as in Pillow.
        result[edge], result[:, edge] = image[edge], image[:, edge]
    return result


def _rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    height, width = image.shape[:2]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    linear = np.array([[cos, -sin], [sin, cos]])
    centre = np.array([width / 2, height / 2])
    return _warp(image, linear, centre - linear @ centre)


def _shear_x(image: np.ndarray, shear: float) -> np.ndarray:
    return _warp(image, np.array([[1, shear], [0, 1]]), (0, 0))


def _shear_y(image: np.ndarray, shear: float) -> np.ndarray:
    return _warp(image, np.array([[1, 0], [shear, 1]]), (0, 0))


def _translate_x(image: np.ndarray, share: float) -> np.ndarray:
    return _move(image, round(share * image.shape[1]), 0)


def _translate_y(image: np.ndarray, share: float) -> np.ndarray:
    return _move(image, 0, round(share * image.shape[0]))


_FUNCTIONS = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "SolarizeAdd": _solarize_add,
    "Color": _color,
    "Contrast": _contrast,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
}


def _stretch(channel: np.ndarray) -> np.ndarray:
    """Spreads the levels that occur in uint8 [h, w] over 0..255."""
    low, high, _, _ = cv2.minMaxLoc(channel)
    if high <= low:
        return channel
    scale = 255 / (high - low)
    return cv2.LUT(channel, (_LEVELS * scale - low * scale).clip(0, 255).astype(np.uint8))


def _flatten(channel: np.ndarray) -> np.ndarray:
    """Makes all levels of uint8 [h, w] about equally frequent."""
    histogram = cv2.calcHist([channel], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    highest = np.flatnonzero(histogram)[-1]
    step = int(histogram.sum() - histogram[highest]) // 255
    if step == 0:
        return channel
    below = np.cumsum(histogram) - histogram
    return cv2.LUT(channel, np.minimum((step // 2 + below) // step, 255).astype(np.uint8))


def _move(image: np.ndarray, left: int, up: int) -> np.ndarray:
    """Moves the content by whole pixels."""
    height, width = image.shape[:2]
    seen = image[max(up, 0) : height + min(up, 0), max(left, 0) : width + min(left, 0)]
    borders = (max(-up, 0), max(up, 0), max(-left, 0), max(left, 0))
    return cv2.copyMakeBorder(seen, *borders, cv2.BORDER_CONSTANT, value=_FILL)


def _warp(image: np.ndarray, linear: np.ndarray, offset) -> np.ndarray:
    """The image whose point p (x, y) shows `linear @ p + offset` of the old; pixel centres at +.5."""
    matrix = np.empty((2, 3))
    matrix[:, :2] = linear
    matrix[:, 2] = linear @ (0.5, 0.5) + offset - 0.5
    # OpenCV warps four channels in little more than half the time of three.
    warped = cv2.warpAffine(
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA),
        matrix,
        image.shape[1::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(*_FILL, 255),
    )
    return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
