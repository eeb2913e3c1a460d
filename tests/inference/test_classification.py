"""What the online probe says of features, by its equations, and which features it is given."""

import numpy as np
import pytest

import soda_jax
from soda_jax.inference.classification import Head
from tests import tiny, tiny_checkpoint

WIDTH, SIZES, NAMES = 6, (3, 2), ("hue", "shape")
PROBE = tiny_checkpoint.random_probe(WIDTH, sum(SIZES))
FEATURES = np.random.default_rng(1).standard_normal((4, WIDTH)).astype(np.float32)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def logits(features, probe):
    norm, head = probe["batch_stats"]["norm"], probe["params"]["head"]
    return (features - norm["mean"]) / np.sqrt(norm["var"] + 1e-5) @ head["kernel"] + head["bias"]


def test_each_label_has_a_softmax_of_its_own():
    found = Head("factors", SIZES, NAMES, (), PROBE).predict(FEATURES)
    assert list(found) == list(NAMES)
    for prediction, part in zip(found.values(), np.split(logits(FEATURES, PROBE), [3], axis=1), strict=True):
        np.testing.assert_allclose(prediction.probabilities, softmax(part), atol=1e-6)
        assert prediction.classes == tuple(range(part.shape[1]))
        assert prediction.best == part.argmax(axis=1).tolist()


def test_names_count_where_there_is_one_for_each_class():
    for classes, expected in ((tuple("abcde"), tuple("abcde")), (("a", "b"), tuple(range(5))), ((), tuple(range(5)))):
        assert Head("label", (5,), ("label",), classes, PROBE).predict(FEATURES)["label"].classes == expected


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"the probe reads 6 numbers of each image, and these have \(5,\)"):
        Head("factors", SIZES, NAMES, (), PROBE).predict(FEATURES[:, :5])


def test_of_several_latents_the_probe_reads_their_mean(tmp_path):
    """As in training's evaluations: of a model that keeps a latent for each view, absent ones left out."""
    config = tiny.posed_config(model__aggregation__name="stochastic", probe__kind="label")
    tiny_checkpoint.write(tmp_path, config, 1, labels={"label": tiny.LABELS["label"]})
    model = soda_jax.load(tmp_path)
    views = np.random.default_rng(0).integers(0, 256, (2, 2, 8, 8, 3), np.uint8)
    mask = [[1, 0], [1, 1]]
    z = model.encode(views, view_mask=mask)
    features = np.stack([z[0, 0], z[1].mean(axis=0)])
    found = model.classify(views, view_mask=mask)["label"]
    expected = softmax(logits(features, tiny_checkpoint.random_probe(16, 10, seed=1)))
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
