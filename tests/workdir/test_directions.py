"""Files of directions: what is saved comes back, and what is damaged or of other weights is refused by name."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest

from soda_jax.latents.directions import measured
from soda_jax.latents.pca import fit_pca
from soda_jax.workdir import directions as files

CODES = np.random.default_rng(0).standard_normal((50, 8))
MODEL, OTHER = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def direction():
    return measured(
        np.arange(8.0), CODES, name="pca1 / 2", kind="pca", source="9%", sections="1-2", num_sections=4, model=MODEL
    )


def test_a_direction_comes_back_whole(tmp_path, direction):
    path = files.save(direction, tmp_path)
    assert path.name == "pca1___2.json"
    for name in (path, path.with_suffix(".npz"), path.with_suffix("")):
        found = files.load(name, MODEL)
        np.testing.assert_array_equal(found.vector, direction.vector)
        plain = [{k: v for k, v in dataclasses.asdict(d).items() if k != "vector"} for d in (found, direction)]
        assert plain[0] == plain[1]
    assert list(files.load_all(tmp_path)) == ["pca1 / 2"]
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        assert arrays.files == ["vector"]


def test_arrays_that_would_unfold_are_refused(tmp_path, direction):
    """A checksum does not help where the whole folder was made up."""
    path = files.save(direction, tmp_path)
    np.savez_compressed(path.with_suffix(".npz"), vector=np.zeros(1_000_000))
    content = path.with_suffix(".npz").read_bytes()
    described = json.loads(path.read_text()) | {"sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(described))
    with pytest.raises(ValueError, match="its arrays are compressed"):
        files.load(path)


def test_another_models_direction_is_refused_by_name(tmp_path, direction):
    path = files.save(direction, tmp_path)
    with pytest.raises(ValueError, match=r"direction 'pca1 / 2' .* is of other weights \(aaaaaaaaaaaa\) than this"):
        files.load(path, OTHER)
    assert files.load(path).model == MODEL  # asked for no model in particular


def test_the_order_of_names_is_a_persons(tmp_path, direction):
    for number in (10, 9, 1):
        files.save(dataclasses.replace(direction, name=f"pca{number}"), tmp_path)
    assert files.names(tmp_path) == ["pca1", "pca9", "pca10"]
    assert files.names(tmp_path / "nowhere") == []


def test_the_prior_comes_back(tmp_path):
    prior = fit_pca(CODES)
    files.save_prior(prior, tmp_path, model=MODEL, count=50)
    found = files.load_prior(tmp_path, MODEL)
    np.testing.assert_array_equal(found.sample(3, seed=1), prior.sample(3, seed=1))
    assert files.names(tmp_path) == []  # it is no direction
    with pytest.raises(ValueError, match="the prior in .* is of other weights"):
        files.load_prior(tmp_path, OTHER)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        files.load_prior(tmp_path / "nowhere")


def _edit(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "gone"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text("{"), "is no direction of this package, or damaged"),
        (lambda path: path.write_text("[1]"), "is no direction of this package, or damaged"),
        (lambda path: _edit(path, format_version=99), "of a newer release"),
        (lambda path: _edit(path, what="prior"), "is a prior, not a direction"),
        (lambda path: _edit(path, std=-1.0), "do not make a direction"),
        (lambda path: _edit(path, mean="gone"), "do not make a direction"),
        (lambda path: _edit(path, num_sections="4"), "do not make a direction"),
        (lambda path: _edit(path, sections="3"), "moves more than sections 3"),
        (lambda path: _edit(path, sections="7"), "the latent has sections 0-3"),
        (lambda path: path.with_suffix(".npz").write_bytes(b"no"), "was changed after it was written"),
        (lambda path: path.with_suffix(".npz").unlink(), "there is no file"),
    ],
)
def test_damaged_files(tmp_path, direction, damage, message):
    path = files.save(direction, tmp_path)
    damage(path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        files.load(path, MODEL)


def test_pickles_are_not_opened(tmp_path, direction):
    path = files.save(direction, tmp_path)
    np.savez(path.with_suffix(".npz"), vector=np.array([{"a": 1}], dtype=object))
    import hashlib

    _edit(path, sha256=hashlib.sha256(path.with_suffix(".npz").read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="is no direction of this package"):
        files.load(path, MODEL)


def test_directions_of_each_step_stand_apart(tmp_path, direction):
    assert files.folder(tmp_path, 12) == tmp_path / "directions" / "00000012"
    files.save(direction, files.folder(tmp_path, 12))
    shutil.copytree(files.folder(tmp_path, 12), files.folder(tmp_path, 13))
    assert list(files.load_all(files.folder(tmp_path, 13), MODEL)) == ["pca1 / 2"]
