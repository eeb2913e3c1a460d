"""Image files to pixels: JPEG, PNG and WebP (also GIF and BMP), whatever their colours.

`EncodedImage` puts the decoding off until it is known what the image is needed for: a JPEG then
decodes at 1/2, 1/4 or 1/8 of its size, where a view needs no more, for a fraction of the time.

Ordinary JPEG and PNG files go through OpenCV, about twice as fast as Pillow with the same result;
transparency, CMYK, palettes, 16 bits and whatever OpenCV refuses go through Pillow.
"""

import io
import os
import pathlib
import stat
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image

# A quarter of a GiB as RGB; Pillow warns of a decompression bomb at the same size.
MAX_PIXELS = (1 << 28) // 3
# OpenCV asks once, when it is loaded. For headers that it would read otherwise than this module does.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))

import cv2  # noqa: E402

# 16-bit RGBA without compression is the largest honest file of so many pixels.
MAX_BYTES = 8 * MAX_PIXELS
# A progressive JPEG is decoded once for each of its scans, honest ones have about ten, and empty scans cost the file
# nothing: as many pixel visits as ten scans of the largest image.
MAX_SCANNED = 10 * MAX_PIXELS
REDUCTIONS = (8, 4, 2)

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_JPEGS = ("JPEG", "MPO")  # MPO: a JPEG with further images behind it, from phones.
_JPEG_SCAN = b"\xff\xda"
_JPEG_END = b"\xff\xd9"
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)  # Markers: baseline, extended, progressive.
# Segments that tell nothing about the size: tables, restarts, comments, applications' own. Of E1, EXIF or XMP, either
# may turn the image. Any other byte, as FF that only fills, stands for no length, or for another kind of image.
_JPEG_PASSED = (0xC4, 0xDB, 0xDD, 0xFE, 0xE0, *range(0xE2, 0xF0))
_ORIENTATION_TAG = 0x0112
# EXIF orientation: (transpose, then flip top to bottom, then flip left to right).
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_REDUCED_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class DecodeError(ValueError):
    """An image that cannot be read.

    Attributes:
        name: of the file.
        reason: why, in a few words.
    """

    def __init__(self, name: str, reason: str):
        # Both to Exception: so that the error survives pickling, on its way from a worker process.
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"image {self.name!r} cannot be decoded ({self.reason}); repair or remove the file."


def decode_image(file: bytes | str | os.PathLike, name: str | None = None) -> np.ndarray:
    """Decodes an image file to uint8 [h, w, 3] RGB.

    Upright by its EXIF orientation; transparency on white; grey, palettes and CMYK as RGB; 16 bits
    scaled to 8; the first frame of an animation.

    Args:
        file: its path, or its content.
        name: what errors call it; by default the path.

    Raises:
        DecodeError: the file is missing or damaged, of another format, or has more than MAX_PIXELS.
    """
    return EncodedImage(file, name).decode()


class _Header(NamedTuple):
    """What a file says before its pixels.

    Attributes:
        height, width: as stored, before turning.
        orientation: EXIF's, 1..8.
        plain: whether OpenCV decodes the file to the right colours.
        reducible: whether it decodes at reduced size.
    """

    height: int
    width: int
    orientation: int
    plain: bool
    reducible: bool


class EncodedImage:
    """An image file that is decoded when asked; `np.asarray` of it is `decode()`.

    Nothing is read before the first use, so every error of `decode_image` may come from any of its
    methods. The file's content is kept until it is decoded.

    Args:
        file: its path, or its content.
        name: what errors call it; by default the path.
        upright: whether to turn the image as its EXIF orientation says. Cameras are calibrated on the
            pixels as they are stored.
    """

    def __init__(self, file: bytes | str | os.PathLike, name: str | None = None, *, upright: bool = True):
        self._file = file
        self._upright = upright
        self.name = name or ("from memory" if isinstance(file, bytes) else os.fspath(file))
        self._opened: tuple[bytes, _Header] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3) of `decode()`."""
        _, header = self._open()
        turned = _TURNS[header.orientation][0]
        return (header.width, header.height, 3) if turned else (header.height, header.width, 3)

    def reduction(self, limit: float) -> int:
        """The largest divisor of the size up to `limit` that the codec offers: 1, 2, 4 or 8."""
        if limit < min(REDUCTIONS):
            return 1
        _, header = self._open()
        if not header.reducible:
            return 1
        # A side that the divisor does not divide ends in a padded pixel, which turning the image
        # would carry to the side from which coordinates count.
        upright = header.orientation == 1
        fits = (r for r in REDUCTIONS if r <= limit and (upright or not (header.width % r or header.height % r)))
        return next(fits, 1)

    def decode(self, reduction: int = 1) -> np.ndarray:
        """uint8 [ceil(h / reduction), ceil(w / reduction), 3]; a pixel averages a square of the image.

        Args:
            reduction: 1, or what `reduction()` returned.
        """
        data, header = self._open()
        self._opened = None
        try:
            pixels = None
            if header.plain:
                flags = _REDUCED_FLAGS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
                pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
            if pixels is not None:
                cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
            else:
                # If it seems damaged, Pillow either reads it after all, or says what is wrong.
                pixels = _decode_with_pillow(_open_with_pillow(data))
                if reduction > 1:
                    pixels = np.asarray(Image.fromarray(pixels).reduce(reduction))
        # The decoders raise nearly anything on damaged files.
        except Exception as error:
            raise DecodeError(self.name, _describe(error)) from error
        return _turned(pixels, header.orientation)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.decode(), dtype)

    def __getstate__(self):
        return {"_file": self._file, "name": self.name, "_upright": self._upright, "_opened": None}

    def _open(self) -> tuple[bytes, _Header]:
        if self._opened is None:
            try:
                data = self._file if isinstance(self._file, bytes) else _read(self._file)
                header = _simple_jpeg_header(data) or _header(data)
                if not header.width * header.height:
                    raise ValueError("it has no pixels")
                if header.width * header.height > MAX_PIXELS:
                    raise ValueError(f"its {header.width} x {header.height} pixels are more than {MAX_PIXELS:,}")
                if header.reducible and data.count(_JPEG_SCAN) * header.width * header.height > MAX_SCANNED:
                    raise ValueError(f"it has {data.count(_JPEG_SCAN):,} scans, which would take minutes")
                self._opened = data, header if self._upright else header._replace(orientation=1)
            except Exception as error:
                raise DecodeError(self.name, _describe(error)) from error
        return self._opened


def _read(path: str | os.PathLike) -> bytes:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):  # a pipe waits for ever, a device never ends
        raise ValueError("it is no regular file")
    size = found.st_size
    if size > MAX_BYTES:
        raise ValueError(f"its {size:,} bytes are more than {MAX_BYTES:,}")
    return pathlib.Path(path).read_bytes()


def _describe(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not one of {', '.join(_FORMATS)}"
    return str(error) or type(error).__name__


def _open_with_pillow(data: bytes) -> Image.Image:
    """Reads the header."""
    if not data:
        raise ValueError("it is empty")
    return Image.open(io.BytesIO(data), formats=_FORMATS)


def _simple_jpeg_header(data: bytes) -> _Header | None:
    """The header of a whole JPEG without metadata about its orientation; None of any other file.

    Most files of a dataset are such ones, and Pillow takes ten times as long over a header. Must not be more lenient
    than libjpeg: where both go different ways, a file could show a small size here and a large one there.
    """
    place = 2
    if data[:place] != b"\xff\xd8":
        return None
    while data[place : place + 1] == b"\xff" and len(data) >= place + 4:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in _JPEG_FRAMES:
            frame, whole = data[place + 4 : place + 10], data.rfind(_JPEG_END) > place
            if len(frame) < 6 or not whole:
                return None
            bits, height, width, channels = struct.unpack(">BHHB", frame)
            return _Header(height, width, 1, True, True) if bits == 8 and channels in (1, 3) else None
        if marker not in _JPEG_PASSED or length < 2:
            return None
        place += 2 + length
    return None


def _header(data: bytes) -> _Header:
    image = _open_with_pillow(data)
    plain = image.mode in ("L", "RGB")
    if image.format == "PNG":
        eight_bits = data[24:25] == b"\x08"  # IHDR's bit depth lies at a fixed place.
        # OpenCV prints a warning for every odd colour profile.
        plain &= eight_bits and "transparency" not in image.info and "icc_profile" not in image.info
    elif image.format in _JPEGS:
        # Some versions of OpenCV fill up a JPEG that ends too early; Pillow complains. Pillow has read
        # up to the pixels, behind which the end's marker cannot occur by chance.
        plain &= data.rfind(_JPEG_END) >= image.fp.tell()
    else:
        plain = False
    return _Header(image.height, image.width, _orientation(image), plain, plain and image.format in _JPEGS)


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1  # Broken metadata are no reason to lose an image.
    return orientation if orientation in _TURNS else 1


def _decode_with_pillow(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey, of which `convert` would clip all but the darkest.
        grey = np.asarray(image)
        levels = ((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)
        if "transparency" in image.info:
            levels[grey == image.info["transparency"]] = 255
        return np.repeat(levels[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
        canvas.alpha_composite(image)
        image = canvas
    return np.asarray(image.convert("RGB"))


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    transpose, flip_rows, flip_columns = _TURNS[orientation]
    if transpose:
        pixels = pixels.transpose(1, 0, 2)
    if flip_rows:
        pixels = pixels[::-1]
    if flip_columns:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
