"""RandAugment against Pillow's own operations, as timm calls them."""

import collections

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from soda_jax.data import randaugment
from soda_jax.data.randaugment import Operation, apply_operations, draw_operations

FILL = (124, 116, 104)


def _photo(height=64, width=80):
    y, x = np.mgrid[:height, :width] / 20.0
    planes = [np.sin(x + k) * np.cos(0.7 * y - k) for k in range(3)]
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    return (120 + 70 * np.stack(planes, -1) + noise).clip(0, 255).astype(np.uint8)


def _affine(image, matrix):
    return image.transform(image.size, Image.AFFINE, matrix, resample=Image.BILINEAR, fillcolor=FILL)


def _solarize_add(image, addition):
    return image.point([min(255, i + int(addition)) if i < 128 else i for i in range(256)] * 3)


REFERENCE = {
    "AutoContrast": lambda im, a: ImageOps.autocontrast(im),
    "Equalize": lambda im, a: ImageOps.equalize(im),
    "Invert": lambda im, a: ImageOps.invert(im),
    "Rotate": lambda im, a: im.rotate(a, resample=Image.BILINEAR, fillcolor=FILL),
    "Posterize": lambda im, a: ImageOps.posterize(im, int(a)),
    "Solarize": lambda im, a: ImageOps.solarize(im, int(a)),
    "SolarizeAdd": _solarize_add,
    "Color": lambda im, a: ImageEnhance.Color(im).enhance(a),
    "Contrast": lambda im, a: ImageEnhance.Contrast(im).enhance(a),
    "Brightness": lambda im, a: ImageEnhance.Brightness(im).enhance(a),
    "Sharpness": lambda im, a: ImageEnhance.Sharpness(im).enhance(a),
    "ShearX": lambda im, a: _affine(im, (1, a, 0, 0, 1, 0)),
    "ShearY": lambda im, a: _affine(im, (1, 0, 0, a, 1, 0)),
    "TranslateX": lambda im, a: _affine(im, (1, 0, round(a * im.size[0]), 0, 1, 0)),
    "TranslateY": lambda im, a: _affine(im, (1, 0, 0, 0, 1, round(a * im.size[1]))),
}
EXACT = ("AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd", "TranslateX", "TranslateY")
GEOMETRIC = ("Rotate", "ShearX", "ShearY")


def test_the_standard_operations_are_all_there():
    assert set(REFERENCE) == set(randaugment.OPERATIONS) and len(REFERENCE) == 15


@pytest.mark.parametrize("name", randaugment.OPERATIONS)
@pytest.mark.parametrize("strength", [0.0, 4.3, 8.5, 10.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_operations_agree_with_pillow(name, strength, sign):
    image = _photo()
    amount = randaugment.amount(name, strength, sign)
    expected = np.asarray(REFERENCE[name](Image.fromarray(image), amount)).astype(int)
    before = image.copy()
    result = apply_operations(image, [Operation(name, amount)])
    np.testing.assert_array_equal(image, before)
    assert result.dtype == np.uint8 and result.shape == image.shape
    difference = np.abs(result - expected).max(-1)
    if name in EXACT:
        assert difference.max() == 0
    elif name in GEOMETRIC:
        # The two blend the image's outermost pixels with the filling differently: a line's worth.
        assert np.mean(difference > 2) < 0.05
    else:
        assert difference.max() <= 2


@pytest.mark.parametrize("name", ["AutoContrast", "Equalize", "Contrast"])
def test_flat_and_two_level_images_agree_with_pillow(name):
    two = np.zeros((8, 8, 3), np.uint8)
    two[:3] = 200
    for image in (np.full((8, 8, 3), 77, np.uint8), two):
        expected = np.asarray(REFERENCE[name](Image.fromarray(image), 1.5))
        np.testing.assert_array_equal(apply_operations(image, [Operation(name, 1.5)]), expected)


def test_tiny_images_pass():
    for name in randaugment.OPERATIONS:
        image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
        assert apply_operations(image, [Operation(name, randaugment.amount(name, 9, 1))]).shape == (1, 2, 3)


@pytest.mark.parametrize("name", randaugment.OPERATIONS)
def test_more_strength_changes_more(name):
    image = _photo()
    changes = []
    for strength in (0, 3, 6, 9):
        amount = randaugment.amount(name, strength, 1.0)
        changed = apply_operations(image, [Operation(name, amount)])
        changes.append(np.abs(changed.astype(int) - image).mean())
    assert all(later >= earlier - 0.3 for earlier, later in zip(changes, changes[1:], strict=False))
    if name not in ("AutoContrast", "Equalize", "Invert", "Posterize"):  # Posterize starts at 4 bits.
        assert changes[0] < 0.5 < changes[-1]


def test_the_usual_magnitude_gives_timms_amounts():
    expected = {
        "Rotate": 27.0,
        "ShearX": 0.27,
        "TranslateY": 0.405,
        "Posterize": 1,
        "Solarize": 26,
        "SolarizeAdd": 99,
        "Color": 1.81,
    }
    for name, amount in expected.items():
        assert randaugment.amount(name, 9.0, 1.0) == pytest.approx(amount)
    assert randaugment.amount("Contrast", 9.0, -1.0) == pytest.approx(0.19)
    assert randaugment.amount("Contrast", 10.0, -1.0) == pytest.approx(0.1)
    assert randaugment.amount("Posterize", 10.0, 1.0) == 1


def test_draws_are_uniform_signed_and_spread_around_the_magnitude():
    rng = np.random.default_rng(0)
    drawn = [op for _ in range(6000) for op in draw_operations(rng, count=2, magnitude=9, magnitude_std=0.5)]
    counts = collections.Counter(op.name for op in drawn)
    assert set(counts) == set(randaugment.OPERATIONS)
    assert min(counts.values()) > 650 and max(counts.values()) < 950  # of 800 expected each
    shears = np.array([op.amount for op in drawn if op.name == "ShearX"])
    assert np.mean(shears > 0) == pytest.approx(0.5, abs=0.06)
    strengths = np.abs(shears) / 0.3 * 10
    assert strengths.max() <= 10 and np.median(strengths) == pytest.approx(9, abs=0.1)
    assert np.mean(np.abs(strengths - 9) < 0.5) == pytest.approx(0.683, abs=0.06)


def test_no_deviation_gives_the_magnitude_itself():
    drawn = draw_operations(np.random.default_rng(0), count=50, magnitude=5, magnitude_std=0.0)
    assert {abs(op.amount) for op in drawn if op.name == "Rotate"} <= {15.0}
    again = draw_operations(np.random.default_rng(0), count=50, magnitude=5, magnitude_std=0.0)
    assert drawn == again


def test_operations_are_applied_in_their_order():
    image = _photo()
    first, second = Operation("Solarize", 100), Operation("Brightness", 0.5)
    one_by_one = apply_operations(apply_operations(image, [first]), [second])
    np.testing.assert_array_equal(apply_operations(image, [first, second]), one_by_one)
    assert not np.array_equal(apply_operations(image, [second, first]), one_by_one)
