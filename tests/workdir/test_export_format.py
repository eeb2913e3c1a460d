"""An export that release 0.1.0 wrote (format 1, float16) loads, and is the run that it was made of."""

import json
import pathlib

import jax
import numpy as np
import pytest

import soda_jax
from tests import tiny  # noqa: F401  (it adds the encoder that the model has)

FOLDER = pathlib.Path(__file__).parent / "fixtures" / "export_format_1"
# Of the run before it was exported, in float32.
RUN = json.loads(FOLDER.with_suffix(".json").read_text())
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    return soda_jax.load(FOLDER)


def test_the_weights_are_the_runs(model):
    assert (model.step, model.weights_digest) == (7, RUN["weights_digest"])
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(model.variables))
    found = {jax.tree_util.keystr(path): float(np.abs(leaf).sum()) for path, leaf in leaves}
    assert found == pytest.approx(RUN["sums"], rel=1e-3)


def test_features_and_classes_are_the_runs(model):
    np.testing.assert_allclose(model.encode(IMAGES), RUN["latents"], atol=1e-2 * np.abs(RUN["latents"]).max())
    found = model.classify(IMAGES)["label"]
    assert found.classes == ("cat", "dog", "fox")
    np.testing.assert_allclose(found.probabilities, RUN["probabilities"], atol=1e-2)


def test_its_direction_is_there(model):
    np.testing.assert_allclose(model.directions["up"].vector, 1 / np.sqrt(8))
