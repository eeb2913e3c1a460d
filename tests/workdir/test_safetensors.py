"""The reader of .safetensors files: what the format says, and every way in which a file can lie."""

import json
import struct
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.workdir.safetensors import read_header, read_metadata, read_tensor, write

KINDS = {"<f4": "F32", "<f2": "F16", "<i8": "I64"}


def packed(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def saved(arrays, metadata=None):
    """The bytes of a file with these arrays, written as the format's description says."""
    header, data = ({} if metadata is None else {"__metadata__": metadata}), b""
    for name, array in arrays.items():
        content = array.tobytes()
        kind = KINDS[array.dtype.str]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    return packed(header, data)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def read(path):
    return {name: read_tensor(path, name, tensor) for name, tensor in read_header(path).items()}


def test_reads_what_was_written(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"a": rng.standard_normal((2, 3), np.float32), "b.c": rng.standard_normal((4,)).astype(np.float16)}
    arrays |= {"scalar": np.array(2.5, np.float32), "none": np.ones((0, 3), np.float32)}
    path = tmp_path / "x.safetensors"
    path.write_bytes(saved(arrays, {"format": "pt"}))
    found = read(path)
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value.astype(np.float32))


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    path = tmp_path / "x.safetensors"
    numbers = np.array([1.0, -2.5, 3.0e38, 0.0], np.float32)  # the third loses its last bits
    path.write_bytes(packed({"w": entry("BF16", (2, 2))}, (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()))
    np.testing.assert_allclose(read(path)["w"], numbers.reshape(2, 2), rtol=2**-7)
    np.testing.assert_array_equal(read(path)["w"].ravel()[[0, 1, 3]], numbers[[0, 1, 3]])


def test_agrees_with_the_package(tmp_path):
    package = pytest.importorskip("safetensors.numpy", reason="the package safetensors is not installed")
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((3,), np.float16)}
    package.save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "np"})
    found = read(tmp_path / "x.safetensors")
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)


# Two kinds of numbers, an odd number of the narrow ones first by name.
WRITTEN = {"a": np.array([1.5, -2.0, 6e-8], np.float16), "b": np.arange(6, dtype=np.float32).reshape(2, 3)}
SAID = {"format": "flax", "dtype": "float16"}


def test_what_is_written_is_laid_out_as_the_format_says(tmp_path):
    """Read here by the format's description alone: the header's length, its JSON, then the bytes."""
    write(tmp_path / "x.safetensors", WRITTEN, SAID)
    content = (tmp_path / "x.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert header.pop("__metadata__") == SAID and length % 8 == 0
    for name, value in WRITTEN.items():
        start, stop = header[name]["data_offsets"]
        assert start % value.itemsize == 0
        assert content[8 + length + start : 8 + length + stop] == value.tobytes()
    assert {name: (e["dtype"], e["shape"]) for name, e in header.items()} == {"a": ("F16", [3]), "b": ("F32", [2, 3])}


def test_what_is_written_comes_back_and_is_the_same_every_time(tmp_path):
    arrays = WRITTEN | {"c": np.array([1.0, -2.5, 3e38], jnp.bfloat16), "none": np.ones((0, 2), np.float32)}
    write(tmp_path / "x.safetensors", arrays, SAID)
    assert read_metadata(tmp_path / "x.safetensors") == SAID
    found = read(tmp_path / "x.safetensors")
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value.astype(np.float32))
    write(tmp_path / "y.safetensors", dict(reversed(arrays.items())), dict(reversed(SAID.items())))
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


def test_the_package_reads_what_is_written(tmp_path):
    package = pytest.importorskip("safetensors", reason="the package safetensors is not installed")
    write(tmp_path / "x.safetensors", WRITTEN, SAID)
    with package.safe_open(tmp_path / "x.safetensors", "np") as file:
        assert file.metadata() == SAID and set(file.keys()) == set(WRITTEN)
        for name, value in WRITTEN.items():
            np.testing.assert_array_equal(file.get_tensor(name), value)


HOSTILE = {
    "empty": b"",
    "seven bytes": b"1234567",
    "no header": packed(b""),
    "header beyond the file": packed({"w": entry()}, bytes(8), length=1 << 20),
    "header of 2^63 bytes": packed({"w": entry()}, bytes(8), length=1 << 63),
    "no JSON": packed(b"{" * 50),
    "no UTF-8": packed(b'{"\xff": 1}'),
    "brackets in brackets": packed(b'{"w":' + b"[" * 200_000),
    "a number of many digits": packed(b'{"w": ' + b"9" * 100_000 + b"}"),
    "a list": packed([entry()]),
    "no tensor": packed({}),
    "metadata alone": packed({"__metadata__": {"format": "pt"}}),
    "metadata that is text": packed({"__metadata__": "pt", "w": entry()}, bytes(8)),
    "metadata that holds numbers": packed({"__metadata__": {"format": 1}, "w": entry()}, bytes(8)),
    "a name twice": packed(b'{"w": %s, "w": %s}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),
    "a tensor that is text": packed({"w": "F32"}),
    "no offsets": packed({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "an unknown kind": packed({"w": entry("F2")}, bytes(8)),
    "a kind that is no text": packed({"w": entry(["F32"])}, bytes(8)),
    "a negative size": packed({"w": entry(shape=(-1, -2))}, bytes(8)),
    "a size that is no integer": packed({"w": entry(shape=(2.0,))}, bytes(8)),
    "a size that is true": packed({"w": entry(shape=(2, True))}, bytes(8)),
    "a huge size": packed({"w": entry(shape=(1 << 62,) * 8)}, bytes(8)),
    "many axes": packed({"w": entry(shape=(2, *[1] * 40))}, bytes(8)),
    "three offsets": packed({"w": entry(offsets=(0, 8, 8))}, bytes(8)),
    "offsets backwards": packed({"w": entry(offsets=(8, 0))}, bytes(8)),
    "negative offsets": packed({"w": entry(offsets=(-8, 0))}, bytes(8)),
    "offsets beyond the file": packed({"w": entry(shape=(20,), offsets=(0, 80))}, bytes(8)),
    "bytes that are too few for the shape": packed({"w": entry(shape=(3,))}, bytes(8)),
    "one tensor's bytes used twice": packed({"v": entry(), "w": entry()}, bytes(8)),
    "tensors that overlap": packed({"v": entry(), "w": entry(offsets=(4, 12))}, bytes(12)),
    "a hole": packed({"v": entry(), "w": entry(offsets=(16, 24))}, bytes(24)),
    "bytes behind the tensors": packed({"w": entry()}, bytes(9)),
    "a pickle": b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
    "a zip": b"PK\x03\x04" + bytes(200),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused(tmp_path, kind):
    path = tmp_path / "x.safetensors"
    path.write_bytes(HOSTILE[kind])
    tracemalloc.start()
    with pytest.raises(ValueError, match="x.safetensors is no .safetensors file, or is damaged"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_what_is_no_file_is_said(tmp_path):
    for path in (tmp_path, tmp_path / "absent.safetensors"):
        with pytest.raises(ValueError, match="is no file"):
            read_header(path)


def test_numbers_that_weights_cannot_be(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(saved({"w": np.array([1.0, np.nan], np.float32), "ids": np.ones(2, np.int64)}))
    tensors = read_header(path)
    with pytest.raises(ValueError, match="values in w that are not finite"):
        read_tensor(path, "w", tensors["w"])
    with pytest.raises(ValueError, match="ids holds I64; what is read is F32, F16, BF16"):
        read_tensor(path, "ids", tensors["ids"])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="ends within w"):
        read_tensor(path, "w", tensors["w"])
