"""The models that come with the package: what they say of themselves, and that those of this checkout are whole."""

import pathlib

import pytest

import soda_jax
from soda_jax import config as config_lib
from soda_jax.sharing import shipped
from soda_jax.workdir import examples as example_files
from soda_jax.workdir import export as exports
from tests import tiny, tiny_exports


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "pretrained")
    tiny_exports.write(tmp_path / "pretrained" / "small", labels={"label": tiny.LABELS["label"]}, with_examples=True)
    tiny_exports.write(tmp_path / "pretrained" / "noise", tiny.get_config(model__family="uncond", probe__kind="none"))
    (tmp_path / "pretrained" / "README.md").write_text("no model")
    (tmp_path / "pretrained" / "notes").mkdir()
    return tmp_path / "pretrained"


def test_models_are_listed_by_what_they_are(folder):
    found = soda_jax.pretrained()
    assert list(found) == ["noise", "small"]
    small = found["small"]
    assert (small.name, small.title, small.dataset) == ("small", "SODA, resnet6", "synthetic")
    assert (small.step, small.resolution, small.source_resolution, small.latent_dim) == (7, 8, 8, 16)
    assert small.license == "apache-2.0" and small.dtype == "float32" and small.examples == 4
    assert small.figures == {"linear_probe/label": 0.75, "knn/label": 0.5} and small.folder == str(folder / "small")
    on_disk = {path.name: path.stat().st_size for path in (folder / "small").rglob("*") if path.is_file()}
    assert small.size == sum(on_disk.values()) - on_disk["soda.json"] - on_disk["README.md"]
    assert 0 < 4 * small.parameters < on_disk["model.safetensors"]
    assert found["noise"].latent_dim is None and found["noise"].examples == 0
    with pytest.raises(AttributeError):
        small.name = "other"


def test_they_print_as_a_table(folder):
    head, _, noise, small = str(soda_jax.pretrained()).splitlines()
    assert head.split() == ["name", "model", "data", "draws", "encodes", "latent", "parameters", "size", "examples",
                            "license", "figures"]  # fmt: skip
    assert small.startswith("small ") and "8 px" in small and "linear_probe/label 0.75, knn/label 0.5" in small
    assert noise.startswith("noise ")


def test_no_model_comes_along(tmp_path, monkeypatch):
    for place in (tmp_path, tmp_path / "nowhere"):
        monkeypatch.setattr(shipped, "FOLDER", place)
        assert soda_jax.pretrained() == {}
        assert str(soda_jax.pretrained()) == "no model comes with this installation of soda_jax"


def test_a_damaged_one_is_left_out_and_named(folder):
    (folder / "small" / "soda.json").write_text("{")
    with pytest.warns(UserWarning, match="the model 'small' of this installation is damaged .*soda.json cannot be"):
        assert list(soda_jax.pretrained()) == ["noise"]


def test_the_folder_is_no_package():
    """Else `import soda_jax.pretrained` would take the place of the function."""
    assert shipped.FOLDER == pathlib.Path(soda_jax.__file__).parent / "pretrained" and shipped.FOLDER.is_dir()
    assert not list(shipped.FOLDER.rglob("*.py"))
    assert callable(soda_jax.pretrained)


@pytest.mark.parametrize("name", shipped.names())
def test_models_of_this_checkout_are_whole(name):
    folder = shipped.FOLDER / name
    description = exports.read_description(folder)
    config_lib.check_foreign(config_lib.from_dict(exports.read_config(folder)))
    found = soda_jax.pretrained()[name]
    assert found.license and found.figures and found.size < 100e6
    if found.examples:
        stored = example_files.read(folder)
        assert len(stored.images) == found.examples and all(stored.credits)
    assert description["about"]["license"] == found.license
