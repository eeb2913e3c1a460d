"""Crops, flips and resizing of uint8 images, on the host, with OpenCV."""

import math
from typing import NamedTuple

import cv2
import numpy as np

# Parallelism comes from worker processes; OpenCV's own threads would fight them for the cores.
cv2.setNumThreads(0)

_CROP_TRIES = 10
_LOG_RATIO = math.log(4 / 3)
_SMOOTHED, _FOUR_SAMPLES = 2.0, 3.0  # factors of shrinking up to which `resize` smooths, and takes four samples


class Crop(NamedTuple):
    """A window of an image in pixels, and whether it is mirrored left to right."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def centre_crop(height: int, width: int, share: float = 1.0) -> Crop:
    """The centred square whose side is `share` of the short side; resizing it equals resizing the image, then cropping.

    With a share of 0.875, 224 pixels are what is left of a short side of 256: ImageNet's protocol of evaluation.
    """
    side = max(1, round(share * min(height, width)))
    return Crop((height - side) // 2, (width - side) // 2, side, side, False)


def random_crop(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    rate: float,
    scale: tuple[float, float],
    flip: bool,
) -> Crop:
    """Draws a random-resized crop with a fair flip at `rate`, else the centre crop.

    The window covers a uniform share `scale` of the image's area, with the logarithm of its aspect
    ratio uniform in log 3/4 .. log 4/3; after ten windows that do not fit, the centre crop.
    """
    draws = rng.random(2 + 4 * _CROP_TRIES).tolist()
    if draws[0] >= rate:
        return centre_crop(height, width)
    flipped = flip and draws[1] < 0.5
    for first in range(2, len(draws), 4):
        u_area, u_ratio, u_top, u_left = draws[first : first + 4]
        area = height * width * (scale[0] + (scale[1] - scale[0]) * u_area)
        ratio = math.exp(_LOG_RATIO * (2 * u_ratio - 1))
        crop_height = round(math.sqrt(area / ratio))
        crop_width = round(math.sqrt(area * ratio))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = int(u_top * (height - crop_height + 1))
            left = int(u_left * (width - crop_width + 1))
            return Crop(top, left, crop_height, crop_width, flipped)
    return centre_crop(height, width)._replace(flip=flipped)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 [h, w, c], antialiased along each side that shrinks.

    OpenCV's bicubic and bilinear do not low-pass, and its exact area averaging is slow unless the factor is whole. So
    a side that shrinks up to twofold is smoothed by three taps before bicubic sampling, which comes as close to
    Pillow's antialiased bicubic as its antialiased bilinear does, in a third of the time that area averaging takes.
    Whole factors average; others up to 3 take the mean of four bilinear samples, larger ones that of the area.
    """
    old_height, old_width = image.shape[:2]
    if (old_height, old_width) == (height, width):
        return image
    factors = old_height / height, old_width / width
    if max(factors) > _SMOOTHED and min(factors) < 1:  # one side at a time: averaging only shrinks
        image = resize(image, min(old_height, height), min(old_width, width))
        return resize(image, height, width)
    if all(factor.is_integer() for factor in factors):
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    if max(factors) <= _SMOOTHED:
        if max(factors) > 1:
            image = cv2.sepFilter2D(image, -1, _taps(factors[1]), _taps(factors[0]), borderType=cv2.BORDER_REPLICATE)
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    if max(factors) <= _FOUR_SAMPLES:
        image = cv2.resize(image, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _taps(factor: float) -> np.ndarray:
    """A low-pass float32 [3] for shrinking by `factor`.

    Stretching a kernel by the factor adds (factor**2 - 1) times its variance, which is what is smoothed here. With a
    variance of 1/3 the result is nearest to Pillow's antialiased bicubic over all factors. At most the taps are
    (1, 2, 1) / 4, which take away the highest frequency entirely.
    """
    share = min(max(factor**2 - 1, 0.0) / 6, 0.25)
    return np.array([share, 1 - 2 * share, share], np.float32)


def apply_crop(image: np.ndarray, crop: Crop, resolution: int) -> np.ndarray:
    """Cuts the window out of uint8 [h, w, 3], resizes it to a square, and mirrors it if asked."""
    window = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    window = resize(window, resolution, resolution)
    return cv2.flip(window, 1) if crop.flip else window


def snap(crop: Crop, multiple: int, height: int, width: int) -> Crop:
    """The window with its edges moved to whole multiples of `multiple` pixels inside the image.

    It covers as many squares of that side as fit into the old one, around nearly the same centre.
    """

    def edges(first: int, length: int, size: int) -> tuple[int, int]:
        count = max(1, length // multiple)
        start = round((first + (length - count * multiple) / 2) / multiple)
        return min(start, size // multiple - count) * multiple, count * multiple

    top, crop_height = edges(crop.top, crop.height, height)
    left, crop_width = edges(crop.left, crop.width, width)
    return Crop(top, left, crop_height, crop_width, crop.flip)


def crop_window(crop: Crop, height: int, width: int) -> np.ndarray:
    """float32 (x_left, y_top, x_right, y_bottom), where the whole image spans -1..1, x right, y down.

    Left and right are those of the result, so that a mirrored crop has x_left > x_right.
    """
    left, right = 2 * crop.left / width - 1, 2 * (crop.left + crop.width) / width - 1
    top, bottom = 2 * crop.top / height - 1, 2 * (crop.top + crop.height) / height - 1
    return np.array([right, top, left, bottom] if crop.flip else [left, top, right, bottom], np.float32)


def crop_intrinsics(intrinsics: np.ndarray, crop: Crop, resolution: int) -> np.ndarray:
    """Intrinsics float32 (fx, fy, cx, cy) of the image that `apply_crop` makes, from those of the whole.

    Raises:
        ValueError: the crop is mirrored, which no camera pose can express.
    """
    if crop.flip:
        raise ValueError(f"crop={crop}: a mirrored image has no camera; set flip=False.")
    x_scale, y_scale = resolution / crop.width, resolution / crop.height
    fx, fy, cx, cy = intrinsics
    return np.array([fx * x_scale, fy * y_scale, (cx - crop.left) * x_scale, (cy - crop.top) * y_scale], np.float32)
