"""Image files made to break a decoder, as {name: bytes}; for test_hostile_inputs.py."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_MAGIC = {
    "PNG": b"\x89PNG\r\n\x1a\n",
    "JPEG": b"\xff\xd8\xff\xe0",
    "WEBP": b"RIFF\xff\xff\xff\x7fWEBPVP8 ",
    "GIF": b"GIF89a",
    "BMP": b"BM",
}


def valid(kind, size=(40, 30)):
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(buffer, format=kind)
    return buffer.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, *more, data=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return _MAGIC["PNG"] + header + b"".join(more) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def bmp(width, height, bits=24):
    return (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, width, height, 1, bits, 0, 0, 0, 0, 0, 0) + b"0" * 46
    )


def gif(screen, frame):
    """A GIF whose frame has another size than its screen."""
    content = valid("GIF", (8, 8))
    start = content.index(b"\x2c", 13)
    content = content[:6] + struct.pack("<HH", *screen) + content[10:]
    return content[: start + 5] + struct.pack("<HH", *frame) + content[start + 9 :]


def jpeg(width, height):
    """A valid JPEG with another size in its header."""
    content = valid("JPEG")
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


def behind_a_decoy(content, width=8, height=8):
    """A JPEG with a comment in front, one fill byte before its marker, that contains the header of another image.

    Who takes the fill byte for a marker takes the comment's marker for a length, and lands on that header.
    """
    start = b"\xff\xff\xfe\xff\xf0"
    landing = 2 + 0xFEFF  # from the fill byte
    header = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    comment = (start + bytes(landing - len(start)) + header).ljust(3 + 0xFFF0, b"\0")
    return content[:2] + comment + content[2:]


def many_scans(count):
    """A progressive JPEG of a large image with `count` empty scans, each of which visits every pixel."""
    buffer = io.BytesIO()
    Image.new("L", (8000, 8000)).save(buffer, format="JPEG", progressive=True)
    content = buffer.getvalue()
    start = content.rindex(b"\xff\xda")
    return content[:start] + content[start:-2] * count + content[-2:]


def all_files():
    rng = np.random.default_rng(1)
    bomb = zlib.compress(bytes(200_000_000))
    files = {f"{kind} of noise": magic + rng.bytes(2000) for kind, magic in _MAGIC.items()}
    for kind in FORMATS:
        content = valid(kind)
        files |= {f"{kind} cut at {share:.0%}": content[: int(share * len(content))] for share in (0.02, 0.5, 0.95)}
    files |= {
        "empty": b"",
        "one byte": b"\xff",
        "PNG of 4 gigapixels": png(65_535, 65_535),
        "PNG of 2^31 columns": png(2**31 - 1, 1),
        "PNG without columns": png(0, 10),
        "PNG of too little data": png(3000, 3000, data=b"\0" * 100),
        "PNG of too much data": png(4, 4, data=bytes(200_000_000)),
        "PNG with a text bomb": png(4, 4, chunk(b"zTXt", b"k\0\0" + bomb), data=bytes(52)),
        "PNG with a profile bomb": png(4, 4, chunk(b"iCCP", b"k\0\0" + bomb), data=bytes(52)),
        "PNG with a chunk of 2 GiB": _MAGIC["PNG"] + struct.pack(">I", 2**31 - 1) + b"IHDR" + bytes(100),
        "JPEG of 4 gigapixels": jpeg(65_535, 65_535),
        "JPEG without rows": jpeg(10, 0),
        "JPEG of 400 scans": many_scans(400),
        "JPEG of 400 megapixels behind a decoy": behind_a_decoy(jpeg(20_000, 20_000)),
        "JPEG of 400 scans behind a decoy": behind_a_decoy(many_scans(400)),
        "BMP of 4 gigapixels": bmp(65_536, 65_536),
        "BMP of negative width": bmp(-5, 5),
        "BMP of 7 bits": bmp(5, 5, bits=7),
        "GIF of 4 gigapixels": gif((65_535, 65_535), (8, 8)),
        "GIF with a frame of 4 gigapixels": gif((8, 8), (65_535, 65_535)),
        "TIFF": b"II*\0" + bytes(100),
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/tmp/written) (w) file\n",
        "pickle": b"\x80\x04cos\nsystem\n(S'touch /tmp/written'\ntR.",
    }
    return files
