"""The folder of an export: what goes in comes out bit by bit, and what was damaged or forged is refused by name."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.workdir import export as exports
from soda_jax.workdir import safetensors
from tests import hostile_exports, tiny, tiny_checkpoint

RNG = np.random.default_rng(0)
VARIABLES = {
    "params": {"dense": {"kernel": RNG.standard_normal((5, 4), np.float32), "bias": np.zeros(4, np.float32)}},
    "batch_stats": {"mean": RNG.standard_normal(3, np.float32)},
}
ABSTRACT = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), VARIABLES)
SIZES = (3,)
EXPORT = exports.Export(
    step=5,
    config={"model": {"family": "soda"}},
    weights_digest="a" * 64,
    variables=VARIABLES,
    probe=tiny_checkpoint.random_probe(6, 3),
    labels={"targets": {"label": [3]}, "labels": {"label": {"names": ["label"], "classes": ["a", "b", "c"]}}},
    about={"license": "", "facts": [], "figures": {}, "model": ""},
    directions={"directions/00000005/pca1.json": b"{}", "directions/00000005/pca1.npz": b"PK"},
)


def read(folder):
    description = exports.read_description(folder)
    assert exports.read_config(folder) == EXPORT.config
    return exports.read_weights(folder, description, ABSTRACT, SIZES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "whole"
    exports.write(folder, EXPORT, "float16", "# A card\n")
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "export")


@pytest.mark.parametrize(
    ("dtype", "kind"), [("float32", np.float32), ("float16", np.float16), ("bfloat16", jnp.bfloat16)]
)
def test_what_goes_in_comes_out(tmp_path, dtype, kind):
    """Weights are rounded as NumPy rounds; statistics and the probe are not."""
    exports.write(tmp_path / "x", EXPORT, dtype, "")
    variables, probe = read(tmp_path / "x")
    rounded = jax.tree.map(lambda leaf: leaf.astype(kind).astype(np.float32), VARIABLES["params"])
    tiny.assert_equal(variables, VARIABLES | {"params": rounded})
    tiny.assert_equal(probe, EXPORT.probe)
    again = dataclasses.replace(EXPORT, variables=variables, probe=probe)
    exports.write(tmp_path / "y", again, dtype, "")
    for name in ("soda.json", "config.json", "model.safetensors"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


def test_every_file_that_is_read_says_its_format(whole):
    for name in ("soda.json", "config.json"):
        assert json.loads((whole / name).read_text())["format_version"] == 1  # without examples
    assert safetensors.read_metadata(whole / "model.safetensors")["format_version"] == "1"


def test_the_card_may_be_edited_and_files_may_lie_beside(folder):
    (folder / "README.md").write_text("# Mine\n")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert read(folder)


def test_links_to_files_serve_as_files(folder, tmp_path):
    """As download caches keep them."""
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    assert read(folder)


def test_a_weight_beyond_the_precision(tmp_path):
    large = jax.tree.map(lambda leaf: leaf * 1e6, VARIABLES)
    with pytest.raises(ValueError, match=r"params.dense.kernel holds .*e\+06, .* float16: use --dtype=bfloat16"):
        exports.write(tmp_path / "x", dataclasses.replace(EXPORT, variables=large), "float16", "")
    exports.write(tmp_path / "y", dataclasses.replace(EXPORT, variables=large), "bfloat16", "")
    unsound = jax.tree.map(lambda leaf: leaf * np.nan, VARIABLES)
    with pytest.raises(ValueError, match="holds nan, which is no finite number in float32$"):
        exports.write(tmp_path / "x", dataclasses.replace(EXPORT, variables=unsound), "float32", "")
    assert [path.name for path in tmp_path.iterdir()] == ["y"]  # nothing is left of what failed


def test_a_folder_with_something_in_it_is_left_alone(folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="exists and is not an empty folder: name another one"):
        exports.write(folder, EXPORT, "float32", "")
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder.parent / "empty").mkdir()
    exports.write(folder.parent / "empty", EXPORT, "float32", "")
    assert read(folder.parent / "empty")


def test_what_an_export_is_known_by(folder, tmp_path):
    assert exports.is_export(folder) and not exports.is_export(tmp_path)
    (folder / "soda.json").unlink()
    assert exports.is_export(folder)  # an incomplete one, and to be named so
    (folder / "checkpoints").mkdir()
    assert not exports.is_export(folder)


@pytest.mark.parametrize("kind", [*hostile_exports.DAMAGE, *hostile_exports.FORGED])
def test_what_is_damaged_or_forged_is_refused(folder, monkeypatch, kind):
    monkeypatch.chdir(folder.parent)
    damage, message = (hostile_exports.DAMAGE | hostile_exports.FORGED)[kind]
    damage(folder)
    with pytest.raises(ValueError, match=message) as refused:
        read(folder)
    assert str(folder) in str(refused.value)
    assert not (folder.parent / "UNPICKLED").exists()
