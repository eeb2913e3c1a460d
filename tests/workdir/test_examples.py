"""Examples beside an export: what goes in comes out bit by bit, and what is damaged or forged is refused by name."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from soda_jax.workdir import examples as files
from soda_jax.workdir import export as exports
from soda_jax.workdir import safetensors
from tests import hostile_exports, tiny_exports

DIGEST = "a" * 64
EXPORT = exports.Export(
    step=5,
    config={"model": {"family": "soda"}},
    weights_digest=DIGEST,
    variables={"params": {"w": np.ones(2, np.float32)}},
    probe=None,
    labels={"targets": {}, "labels": {}},
    about={},
)


def write(folder, stored):
    export = tiny_exports.with_files(EXPORT, files.to_files(stored, DIGEST))
    exports.write(folder, export, "float32", "")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("exports") / "whole", tiny_exports.examples(views=2))


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "export")


@pytest.mark.parametrize("views", [0, 1, 3])
@pytest.mark.parametrize("with_codes", [True, False])
def test_what_goes_in_comes_out(tmp_path, views, with_codes):
    stored = tiny_exports.examples(views=views)
    if not with_codes:
        stored = dataclasses.replace(stored, codes=None, labels={})
    folder = write(tmp_path / "x", stored)
    exports.read_description(folder)
    found = files.read(folder)
    for field in dataclasses.fields(stored):
        before, after = getattr(stored, field.name), getattr(found, field.name)
        if isinstance(before, dict):
            assert before.keys() == after.keys()
            before, after = (np.concatenate([np.ravel(x) for x in d.values()] or [[]]) for d in (before, after))
        np.testing.assert_array_equal(before, after, err_msg=field.name)
        assert getattr(before, "dtype", None) == getattr(after, "dtype", None)
    assert files.to_files(found, DIGEST) == files.contents(folder)
    first = sorted(files.contents(folder))[0]
    image = np.asarray(Image.open(io.BytesIO(files.contents(folder)[first])))
    np.testing.assert_array_equal(image, stored.images.reshape(-1, 8, 8, 3)[0])


def test_the_folder_says_the_format_that_has_examples(whole, tmp_path):
    """A folder without them is one that earlier releases read."""
    assert json.loads((whole / "soda.json").read_text())["format_version"] == 2
    exports.write(tmp_path / "plain", EXPORT, "float32", "")
    assert json.loads((tmp_path / "plain" / "soda.json").read_text())["format_version"] == 1
    assert files.read(tmp_path / "plain") is None and files.contents(tmp_path / "plain") == {}
    assert exports.num_examples(exports.described(whole)["files"]) == 4


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (2, 0, 8, 8, 3), (1, 4097, 1, 3)])
def test_numbers_and_sizes_that_the_format_does_not_take(shape):
    stored = dataclasses.replace(tiny_exports.examples(), images=np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="an export takes 1 to 10,000 in up to 100 views of up to 4096 pixels a side"):
        files.to_files(stored, DIGEST)


def change_rows(change):
    """Changes examples.json, and the checksum that would tell."""

    def damage(folder):
        path = folder / "examples" / "examples.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        hostile_exports.seal(folder)

    return damage


def rewrite(name, content):
    def damage(folder):
        (folder / "examples" / name).write_bytes(content)
        hostile_exports.seal(folder)

    return damage


def codes(arrays, **said):
    metadata = {"format": "soda_jax examples", "format_version": "1", "weights_digest": DIGEST} | said
    return rewrite("codes.safetensors", safetensors.to_bytes(arrays, metadata))


def png(side, form="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, format=form)
    return file.getvalue()


def unlist(name):
    def damage(folder):
        listed = json.loads((folder / "soda.json").read_text())["files"]
        del listed[f"examples/{name}"]
        hostile_exports.describe(folder, files=listed)

    return damage


def first(content):
    return content["examples"][0]


DAMAGE = {
    "cut picture": (lambda f: _cut(f / "examples" / "0000_00.png"), r"0000_00.png has \d+ bytes, not \d+"),
    "altered picture": (
        lambda f: _flip(f / "examples" / "0001_01.png"),
        "0001_01.png was changed after it was written",
    ),
    "missing picture": (lambda f: (f / "examples" / "0002_00.png").unlink(), "0002_00.png is missing"),
    "altered codes": (lambda f: _flip(f / "examples" / "codes.safetensors"), "codes.safetensors was changed"),
}
FORGED = {
    "no json": (rewrite("examples.json", b"{"), "examples.json cannot be read"),
    "brackets": (rewrite("examples.json", b"[" * 100_000), "examples.json cannot be read"),
    "a list": (rewrite("examples.json", b"[]"), "examples.json cannot be read"),
    "another program's": (change_rows(lambda c: c.update(format="x")), "describes no examples of soda_jax"),
    "a newer release's": (change_rows(lambda c: c.update(format_version=2)), "its format is 2, this release reads 1"),
    "no example": (change_rows(lambda c: c.update(examples=[])), "no list of 1 to 10,000 examples"),
    "no credit": (change_rows(lambda c: first(c).pop("credit")), "does not have credit, files, labels, license"),
    "a credit that is no text": (change_rows(lambda c: first(c).update(credit=1)), "of example 0 are no text"),
    "another kind of label": (change_rows(lambda c: [r["labels"].update(x=1) for r in c["examples"]]), "kind, 'x'"),
    "a label that is no class": (change_rows(lambda c: first(c)["labels"].update(label=0.5)), "a label of example 0"),
    "a label beyond": (change_rows(lambda c: first(c)["labels"].update(label=1 << 40)), "a label of example 0"),
    "a view too few": (change_rows(lambda c: first(c)["files"].pop()), "not one camera for each of its views"),
    "a file outside": (
        change_rows(lambda c: first(c).update(files=["../../x.png", "0000_01.png"])),
        "files of example 0 have other names",
    ),
    "a pose that shears": (
        change_rows(lambda c: first(c)["cameras"][0]["pose"][0].__setitem__(0, 9.0)),
        "scales or shears",
    ),
    "no focal length": (
        change_rows(lambda c: first(c)["cameras"][0]["intrinsics"].__setitem__(0, 0.0)),
        "a camera of example 0 has impossible intrinsics",
    ),
    "NaN as a pose": (
        change_rows(lambda c: first(c)["cameras"][0]["pose"][0].__setitem__(3, float("nan"))),
        "not finite",
    ),
    "a picture that is not listed": (unlist("0003_01.png"), "examples/0003_01.png is not listed"),
    "a picture too many": (change_rows(lambda c: c["examples"].pop()), "0003_00.png is in no row of"),
    "pictures alone": (unlist("examples.json"), "lists pictures, but not examples/examples.json"),
    "a JPEG": (rewrite("0000_00.png", png(8, "JPEG")), "0000_00.png is no PNG of up to 4096 pixels"),
    "a page": (rewrite("0000_00.png", b"<html>"), "0000_00.png is no PNG"),
    "a header alone": (rewrite("0000_00.png", png(8)[:40]), "0000_00.png.* cannot be decoded"),
    "another size": (rewrite("0000_00.png", png(9)), "have several sizes"),
    "a side beyond": (rewrite("0000_00.png", png(4097)), "is no PNG of up to 4096 pixels a side"),
    "codes of fewer": (
        codes({"codes": np.zeros((3, 16), np.float32)}),
        "does not hold the float32 codes of 4 examples",
    ),
    "rounded codes": (codes({"codes": np.zeros((4, 16), np.float16)}), "does not hold the float32 codes"),
    "codes of other weights": (
        codes({"codes": np.zeros((4, 16), np.float32)}, weights_digest="b" * 64),
        "holds codes of other weights",
    ),
    "codes that are no numbers": (codes({"codes": np.full((4, 16), np.nan, np.float32)}), "not finite"),
    "a pickle as codes": (rewrite("codes.safetensors", b"\x80\x04."), "no .safetensors file, or is damaged"),
}


def _cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", [*DAMAGE, *FORGED])
def test_what_is_damaged_or_forged_is_refused(folder, kind):
    damage, message = (DAMAGE | FORGED)[kind]
    damage(folder)
    with pytest.raises(ValueError, match=message) as refused:
        files.read(folder)
    assert str(folder) in str(refused.value)
    if kind in DAMAGE:  # which `soda_jax.load` finds at once
        with pytest.raises(ValueError, match=message):
            exports.read_description(folder)


def test_sizes_that_no_such_file_has(folder):
    """Before a byte of it is read."""
    listed = json.loads((folder / "soda.json").read_text())["files"]
    for name in ("examples/examples.json", "examples/0000_00.png", "examples/codes.safetensors"):
        hostile_exports.describe(folder, files=listed | {name: listed[name] | {"size": 1 << 40}})
        with pytest.raises(ValueError, match="1,099,511,627,776 bytes, more than any such file has"):
            files.read(folder)
