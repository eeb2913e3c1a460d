"""Decoding against Pillow, which is independent of the OpenCV path, and against closed forms."""

import io
import pickle
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from soda_jax.data import decode
from tests import hostile_images


def _photo(height=60, width=90):
    y, x = np.mgrid[:height, :width] / 20.0
    planes = [np.sin(x + k) * np.cos(0.7 * y - k) for k in range(3)]
    return (127.5 + 120 * np.stack(planes, -1)).astype(np.uint8)


def _encoded(image, kind, **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _png(pixels, colour_type, depth=16, chunks=b""):
    """A PNG of big-endian samples [h, w, c] by hand: Pillow cannot write every kind."""
    height, width = pixels.shape[:2]

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = pixels.astype(">u2" if depth == 16 else np.uint8)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    extra = chunk(b"tRNS", chunks) if chunks else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(60, 90), (1, 1), (1, 300), (37, 53), (255, 3)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_ordinary_files_decode_as_by_pillow(kind, size):
    data = _encoded(_photo(*size), kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    result = decode.decode_image(data)
    assert result.dtype == np.uint8 and result.shape == (*size, 3) and result.flags.c_contiguous
    assert np.abs(result.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"quality": 20}, {"optimize": True}])
def test_kinds_of_jpeg(options):
    data = _encoded(_photo(), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(decode.decode_image(data).astype(int) - expected).max() <= 1


def test_path_and_bytes_are_alike(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(_encoded(_photo(), "JPEG"))
    np.testing.assert_array_equal(decode.decode_image(path), decode.decode_image(path.read_bytes()))
    np.testing.assert_array_equal(decode.decode_image(str(path)), decode.decode_image(path))


def test_sixteen_bits_are_scaled():
    ramp = np.linspace(0, 65535, 64 * 4).astype(np.uint16).reshape(4, 64, 1)
    expected = np.round(ramp[..., 0] / 257.0)
    grey = decode.decode_image(_png(ramp, 0))
    np.testing.assert_array_equal(grey, np.repeat(expected[..., None], 3, -1))
    colour = np.concatenate([ramp, ramp[:, ::-1], ramp[::-1]], -1)
    assert np.abs(decode.decode_image(_png(colour, 2)) - colour / 257.0).max() <= 1


def test_sixteen_bit_transparency_is_white():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(4, 16, 1)
    half = np.concatenate([ramp, np.full_like(ramp, 32768)], -1)
    assert np.abs(decode.decode_image(_png(half, 4))[..., 0] - (ramp[..., 0] / 257 * 0.5 + 127.5)).max() <= 2
    clear = np.concatenate([ramp] * 3 + [np.zeros_like(ramp)], -1)
    assert np.all(decode.decode_image(_png(clear, 6)) == 255)
    keyed = decode.decode_image(_png(ramp, 0, chunks=struct.pack(">H", int(ramp[0, 3, 0]))))
    assert np.all(keyed[0, 3] == 255) and np.all(keyed[0, 0] == 0)


@pytest.mark.parametrize("depth_bits", [1, 2, 4])
def test_few_bits_of_grey_span_the_range(depth_bits):
    levels = np.arange(2**depth_bits)
    image = Image.fromarray(np.repeat(levels, 4).astype(np.uint8)[None]).convert("P")
    image.putpalette(np.repeat(np.linspace(0, 255, 2**depth_bits).round().astype(np.uint8), 3).tobytes())
    result = decode.decode_image(_encoded(image, "PNG", bits=depth_bits))
    np.testing.assert_array_equal(result[0, ::4, 0], np.linspace(0, 255, 2**depth_bits).round())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_as_by_pillow(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = _encoded(_photo(), kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    encoded = decode.EncodedImage(data)
    assert encoded.shape == expected.shape
    assert np.abs(encoded.decode().astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_reduced_jpeg_is_the_mean_of_squares(orientation, reduction):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _encoded(_photo(64, 96), "JPEG", quality=95, subsampling=0, exif=exif)
    encoded = decode.EncodedImage(data)
    full = encoded.decode().astype(float)
    height, width, _ = full.shape
    squares = full.reshape(height // reduction, reduction, width // reduction, reduction, 3).mean((1, 3))
    assert encoded.reduction(reduction) == reduction
    assert np.abs(encoded.decode(reduction) - squares).max() <= 4


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_what_opencv_refuses_is_averaged_as_well(reduction, monkeypatch):
    data = _encoded(_photo(61, 97), "JPEG", quality=95, subsampling=0)
    expected = decode.EncodedImage(data).decode(reduction).astype(float)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    found = decode.EncodedImage(data).decode(reduction)
    assert found.shape == expected.shape and np.abs(found - expected)[:-1, :-1].max() <= 4


def test_reduction_is_what_codec_and_size_allow():
    jpeg = _encoded(_photo(61, 97), "JPEG")
    assert [decode.EncodedImage(jpeg).reduction(x) for x in (0.3, 1, 1.9, 2, 3.9, 4.5, 100)] == [1, 1, 1, 2, 2, 4, 8]
    assert decode.EncodedImage(jpeg).decode(8).shape == (8, 13, 3)
    assert decode.EncodedImage(_encoded(_photo(), "PNG")).reduction(8) == 1
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode.EncodedImage(_encoded(_photo(60, 92), "JPEG", exif=exif))
    assert turned.reduction(8) == 4 and turned.decode(4).shape == (23, 15, 3)


def test_jpeg_with_a_trailer_still_decodes_fast_and_a_thumbnail_hides_no_truncation():
    data = _encoded(_photo(), "JPEG")
    assert decode.EncodedImage(data + b"trailer" * 50).reduction(2) == 2
    np.testing.assert_array_equal(decode.decode_image(data + b"trailer" * 50), decode.decode_image(data))
    thumbnail = b"Exif\0\0" + data  # As metadata: it brings an end marker of its own.
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    with_thumbnail = data[:2] + segment + data[2:]
    assert decode.decode_image(with_thumbnail).shape == (60, 90, 3)
    with pytest.raises(decode.DecodeError, match="truncated"):
        decode.decode_image(with_thumbnail[:-200])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_files_are_named(kind, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = _encoded(noise, kind)
    for number, content in enumerate([b"", b"no image", data[:40], data[: len(data) // 2]]):
        path = tmp_path / f"broken{number}"
        path.write_bytes(content)
        with pytest.raises(decode.DecodeError, match=f"broken{number}' cannot be decoded") as caught:
            decode.decode_image(path)
        assert caught.value.name == str(path) and caught.value.reason
    with pytest.raises(decode.DecodeError, match="example 3.*it is empty"):
        decode.decode_image(b"", "example 3")
    with pytest.raises(decode.DecodeError, match="No such file"):
        decode.decode_image(tmp_path / "absent.png")


def test_other_formats_are_refused():
    with pytest.raises(decode.DecodeError, match="not one of JPEG, PNG"):
        decode.decode_image(_encoded(_photo(), "TIFF"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_600, 65_000])
def test_a_crafted_size_is_refused_before_memory_is_taken(side):
    small = _png(np.zeros((1, 1, 3), np.uint8), 2, depth=8)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    crafted = small[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + small[33:]
    with pytest.raises(decode.DecodeError, match="pixels"):
        decode.decode_image(crafted)


@pytest.mark.parametrize("first", [b"\xff", b"\xff\xff\xff", b"\xff\xfe\0\x04ok"], ids=["fill", "more fill", "comment"])
def test_jpeg_with_something_before_its_first_marker(first):
    content = _encoded(_photo(), "JPEG")
    found = decode.EncodedImage(content[:2] + first + content[2:])
    assert found.shape == (60, 90, 3)
    np.testing.assert_array_equal(found.decode(), decode.decode_image(content))


def test_a_decoy_does_not_hide_the_size_of_a_jpeg():
    """Small by what this module saw of the header, large by what libjpeg then decodes."""
    content = hostile_images.behind_a_decoy(hostile_images.valid("JPEG"))
    assert decode.EncodedImage(content).shape == decode.decode_image(content).shape == (30, 40, 3)
    with pytest.raises(decode.DecodeError, match="400000000 pixels|20000 x 20000 pixels"):
        decode.decode_image(hostile_images.behind_a_decoy(hostile_images.jpeg(20_000, 20_000)))
    with pytest.raises(decode.DecodeError, match="40[0-9] scans"):
        decode.decode_image(hostile_images.behind_a_decoy(hostile_images.many_scans(400)))


@pytest.mark.parametrize("marker", [0x00, 0x01, 0xC9, 0xCC, 0xDA, *range(0xD0, 0xDA), 0xFF])
def test_only_segments_that_libjpeg_passes_over_are_passed_over(marker):
    """The others have no length, or make it another image."""
    content = hostile_images.valid("JPEG")
    assert decode._simple_jpeg_header(content) is not None
    assert decode._simple_jpeg_header(content[:2] + bytes([0xFF, marker, 0, 4, 0, 0]) + content[2:]) is None
    assert decode._simple_jpeg_header(content[:2] + b"\xff\xfe\0\1" + content[2:]) is None


def test_opencv_decodes_no_larger_images_either():
    """Behind every header that is read here otherwise than by the decoder; its own limit is 12 times as high."""
    image = hostile_images.jpeg(10_000, 10_000)
    code = "import sys; from soda_jax.data import decode; import cv2, numpy as np\n"
    code += "cv2.imdecode(np.frombuffer(sys.stdin.buffer.read(), np.uint8), cv2.IMREAD_COLOR)"
    run = subprocess.run([sys.executable, "-c", code], input=image, capture_output=True)
    assert run.returncode == 1 and b"pixels <= CV_IO_MAX_IMAGE_PIXELS" in run.stderr, run.stderr[-500:]


def test_headers_of_jpegs_cut_anywhere_are_answered_with_an_error():
    data = _encoded(_photo(16, 16), "JPEG")
    for length in range(len(data) - 1):
        with pytest.raises(decode.DecodeError):
            decode.decode_image(data[:length])
    frame = data.index(b"\xff\xc0")
    with pytest.raises(decode.DecodeError):
        assert decode.EncodedImage(data[: frame + 5] + b"\0\0" + data[frame + 7 :]).shape == ()


def test_a_huge_file_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MAX_BYTES", 100)
    (tmp_path / "a.png").write_bytes(_encoded(_photo(), "PNG"))
    with pytest.raises(decode.DecodeError, match="bytes are more than 100"):
        decode.decode_image(tmp_path / "a.png")


def test_encoded_image_acts_like_an_array_and_pickles(tmp_path):
    path = tmp_path / "a.png"
    encoded = decode.EncodedImage(path)  # Not read yet: the file does not exist.
    path.write_bytes(_encoded(_photo(), "PNG"))
    copy = pickle.loads(pickle.dumps(encoded))
    assert copy.shape == (60, 90, 3)
    np.testing.assert_array_equal(np.asarray(copy), _photo())
    np.testing.assert_array_equal(encoded.decode(), _photo())
    error = decode.DecodeError("a.png", "why")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_files_that_opencv_refuses_are_read_by_pillow(monkeypatch):
    data = _encoded(_photo(), "JPEG")
    expected = decode.decode_image(data)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    assert np.abs(decode.decode_image(data).astype(int) - expected).max() <= 1


def test_orientation_is_ignored_where_the_pixels_are_wanted_as_stored():
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = decode.EncodedImage(_encoded(_photo(), "PNG", exif=exif), upright=False)
    assert pickle.loads(pickle.dumps(stored)).shape == (60, 90, 3)
    np.testing.assert_array_equal(stored.decode(), _photo())
