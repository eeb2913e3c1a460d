import cv2
import numpy as np
import pytest
from PIL import Image

from soda_jax.data import transforms


def _smooth_image(height, width):
    y, x = np.mgrid[:height, :width] / 40.0
    planes = [np.sin(x + k) * np.cos(0.7 * y - k) for k in range(3)]
    return (127.5 + 120 * np.stack(planes, -1)).astype(np.uint8)


def test_shrinking_by_a_whole_factor_averages_blocks():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = image.reshape(16, 4, 16, 4, 3).mean((1, 3))
    assert np.abs(transforms.resize(image, 16, 16) - expected).max() <= 1


@pytest.mark.parametrize("size", [(96, 96), (25, 31), (64, 20)])
def test_resize_agrees_with_pillow_on_smooth_images(size):
    image = _smooth_image(60, 50)
    expected = Image.fromarray(image).resize(size[::-1], Image.BICUBIC)
    result = transforms.resize(image, *size)
    assert result.shape == (*size, 3) and result.dtype == np.uint8
    assert np.abs(result.astype(int) - np.asarray(expected)).mean() < 2


def test_resize_to_the_same_size_changes_nothing():
    image = _smooth_image(20, 30)
    np.testing.assert_array_equal(transforms.resize(image, 20, 30), image)


def test_centre_crop_is_the_middle_square():
    assert transforms.centre_crop(30, 50) == (0, 10, 30, 30, False)
    assert transforms.centre_crop(51, 20) == (15, 0, 20, 20, False)


def test_apply_crop_cuts_and_mirrors():
    image = _smooth_image(40, 40)
    crop = transforms.Crop(3, 5, 16, 16, True)
    np.testing.assert_array_equal(transforms.apply_crop(image, crop, 16), image[3:19, 5:21][:, ::-1])


def _draws(count, height=48, width=64, **options):
    settings = {"rate": 1.0, "scale": (0.08, 1.0), "flip": True} | options
    rng = np.random.default_rng(1)
    return [transforms.random_crop(height, width, rng, **settings) for _ in range(count)]


def test_random_crops_lie_inside_with_the_asked_area_and_ratio():
    crops = _draws(3000, 480, 480)
    for crop in crops:
        assert 0 <= crop.top and crop.top + crop.height <= 480
        assert 0 <= crop.left and crop.left + crop.width <= 480
        assert 0.07 < crop.height * crop.width / 480**2 <= 1
        assert 0.74 < crop.width / crop.height < 1.35
    assert np.mean([crop.flip for crop in crops]) == pytest.approx(0.5, abs=0.03)
    # Log-uniform ratio: as often wide as tall. (Large crops that do not fit are drawn again.)
    wide = np.mean([crop.width > crop.height for crop in crops])
    assert wide == pytest.approx(0.5, abs=0.03)


def test_small_crops_have_uniform_area_and_reach_every_place():
    crops = _draws(3000, 600, 600, scale=(0.1, 0.3))
    area = np.sort([crop.height * crop.width / 600**2 for crop in crops])
    expected = np.linspace(0.1, 0.3, len(area))
    assert np.abs(area - expected).max() < 0.01
    slack = np.array([c.top / (600 - c.height) for c in crops])
    assert slack.min() < 0.01 and slack.max() > 0.99 and slack.mean() == pytest.approx(0.5, abs=0.02)


def test_crop_rate_and_flip():
    centre = transforms.centre_crop(48, 64)
    assert np.mean([c == centre for c in _draws(4000, rate=0.7)]) == pytest.approx(0.3, abs=0.03)
    assert all(c == centre for c in _draws(50, rate=0.0))
    assert not any(c.flip for c in _draws(200, flip=False))


def test_an_image_too_narrow_for_any_ratio_gets_its_centre():
    crop = _draws(1, 10, 400, scale=(0.9, 1.0), flip=False)[0]
    assert crop == transforms.centre_crop(10, 400)


@pytest.mark.parametrize("crop", [transforms.Crop(0, 10, 30, 30, False), transforms.Crop(4, 8, 12, 24, False)])
def test_crop_intrinsics_follow_the_pixels(crop):
    # Column and row coordinates as image values: after the crop, a pixel still tells where it came from.
    rows, columns = np.mgrid[:40, :50]
    image = np.stack([4 * columns + 2, 4 * rows + 2, 0 * rows], -1).astype(np.uint8)
    fx, fy, cx, cy = transforms.crop_intrinsics(np.array([40.0, 36.0, 25.0, 15.0]), crop, 6)
    shown = transforms.apply_crop(image, crop, 6).astype(float) / 4  # Pixel centres of the whole image.
    centres = np.arange(6) + 0.5
    np.testing.assert_allclose((centres - cx) / fx, (shown[0, :, 0] - 25) / 40, atol=0.13 / 36)
    np.testing.assert_allclose((centres - cy) / fy, (shown[:, 0, 1] - 15) / 36, atol=0.13 / 36)


def test_a_mirrored_crop_has_no_camera():
    with pytest.raises(ValueError, match="mirrored"):
        transforms.crop_intrinsics(np.ones(4), transforms.Crop(0, 0, 30, 30, True), 60)


def test_snapped_crops_lie_on_the_grid_and_keep_their_size():
    rng = np.random.default_rng(0)
    for _ in range(500):
        height, width = rng.integers(16, 400, 2).tolist()
        multiple = int(rng.choice([1, 2, 4, 8]))
        crop = transforms.random_crop(height, width, rng, rate=0.9, scale=(0.08, 1.0), flip=True)
        if min(crop.height, crop.width) < multiple:
            continue
        snapped = transforms.snap(crop, multiple, height, width)
        assert all(edge % multiple == 0 for edge in snapped[:4]) and snapped.flip == crop.flip
        for first, length, size in ((0, 2, height), (1, 3, width)):
            assert snapped[first] >= 0 and snapped[first] + snapped[length] <= size
            assert snapped[length] == crop[length] // multiple * multiple
            assert abs(snapped[first] - crop[first]) <= multiple
            assert abs(snapped[first] + snapped[length] - crop[first] - crop[length]) <= 1.5 * multiple


def test_window_coordinates():
    assert transforms.crop_window(transforms.Crop(0, 0, 30, 40, False), 30, 40).tolist() == [-1, -1, 1, 1]
    window = transforms.crop_window(transforms.Crop(10, 20, 20, 10, False), 40, 80)
    np.testing.assert_allclose(window, [-0.5, -0.5, -0.25, 0.5])
    mirrored = transforms.crop_window(transforms.Crop(10, 20, 20, 10, True), 40, 80)
    np.testing.assert_allclose(mirrored, [-0.25, -0.5, -0.5, 0.5])
    assert window.dtype == np.float32


@pytest.mark.parametrize("old", [65, 70, 90, 128, 150, 190, 256])
def test_shrinking_does_not_alias(old):
    """A pattern finer than the new pixels turns grey; a coarse one survives."""
    place = np.arange(old)
    period = 2.2 * old / 64 / 2  # 1.1 new pixels, beyond what they can show
    for wave, expected in ((period, 0.0), (old / 4, 1.0)):
        row = 127.5 + 100 * np.sin(2 * np.pi * (place + 0.5) / wave)
        image = np.repeat(np.tile(row[:, None], (1, old)).astype(np.uint8)[..., None], 3, -1)
        if wave == period and old < 128:
            continue  # Its period would be below two old pixels: it cannot be drawn.
        result = transforms.resize(image, 64, 64).astype(float)
        assert result.std() / (100 / np.sqrt(2)) == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize("old", [65, 75, 89, 92, 110, 150, 190, 200])
def test_shrinking_is_as_close_to_pillows_bicubic_as_its_other_antialiased_filters(old):
    rng = np.random.default_rng(old)
    grain = cv2.GaussianBlur(rng.normal(0, 40, (old, old, 3)), (0, 0), 0.8)  # As blurred as a lens leaves it.
    image = (_smooth_image(old, old) * 0.7 + 30 + grain).clip(0, 255).astype(np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((64, 64), Image.BICUBIC)).astype(float)

    def error(result):
        return np.sqrt(np.mean((result - expected) ** 2))

    others = [np.asarray(Image.fromarray(image).resize((64, 64), kind)) for kind in (Image.BILINEAR, Image.BOX)]
    assert error(transforms.resize(image, 64, 64)) < 1.15 * max(error(other) for other in others)


def _below_old_but_above_new_limit(rows, columns, old, new):
    """Stripes along the rows that the old pixels can show and the new ones cannot."""
    wave = 2 * np.sqrt(old / new)  # between 2 old pixels and 2 new ones
    stripes = 127.5 + 127 * np.cos(2 * np.pi * np.arange(rows) / wave)
    return np.repeat(np.tile(stripes.astype(np.uint8)[:, None], (1, columns))[..., None], 3, -1)


@pytest.mark.parametrize("old", [260, 275, 300, 320, 350, 390, 420])
@pytest.mark.parametrize("columns", ["as many", "fewer"])  # fewer: these are enlarged
def test_shrinking_less_than_twofold_takes_away_what_cannot_be_shown(old, columns):
    image = _below_old_but_above_new_limit(old, old if columns == "as many" else 180, old, 224)
    left = transforms.resize(image, 224, 224).astype(float).std()
    area = cv2.resize(image, (image.shape[1], 224), interpolation=cv2.INTER_AREA).astype(float).std()
    bicubic = np.asarray(Image.fromarray(image).resize((image.shape[1], 224), Image.BICUBIC)).astype(float).std()
    assert left < 1.15 * max(area, bicubic)
    across = transforms.resize(np.ascontiguousarray(image.swapaxes(0, 1)), 224, 224)
    np.testing.assert_allclose(across.swapaxes(0, 1), transforms.resize(image, 224, 224), atol=2)


@pytest.mark.parametrize("size", [(250, 250), (300, 300), (340, 260), (400, 400), (300, 180), (700, 150), (448, 200)])
def test_resizing_keeps_what_can_be_shown(size):
    """As close to Pillow's antialiased bicubic as its antialiased bilinear is, also with sides that grow."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (40, 40, 3), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    expected, other = (
        np.asarray(Image.fromarray(image).resize((224, 224), kind)).astype(float)
        for kind in (Image.BICUBIC, Image.BILINEAR)
    )
    ours = transforms.resize(image, 224, 224)
    assert np.square(ours - expected).mean() < 1.1 * np.square(other - expected).mean()
