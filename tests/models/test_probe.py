"""The linear probe: what it learns, what it only measures, and its loss in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.models.probe import LinearProbe, head_losses, probe_hits, probe_labels, probe_loss, stack_heads

FEATURES = (3.0 + 2.0 * np.random.default_rng(0).standard_normal((64, 5))).astype(np.float32)
IDS = np.arange(64)


def init(probe):
    return probe.init(jax.random.key(0), FEATURES)


def test_batch_norm_has_statistics_but_no_parameters():
    variables = init(LinearProbe((3, 4)))
    assert jax.tree.map(np.shape, variables["params"]) == {"head": {"kernel": (5, 7), "bias": (7,)}}
    assert jax.tree.map(np.shape, variables["batch_stats"]) == {"norm": {"mean": (5,), "var": (5,)}}


def test_initial_weights():
    head = init(LinearProbe((4000,), init_scale=0.02, bias_init=-10.0))["params"]["head"]
    np.testing.assert_array_equal(head["bias"], -10.0)
    np.testing.assert_allclose(np.std(head["kernel"]), 0.02, rtol=0.03)
    np.testing.assert_allclose(np.mean(head["kernel"]), 0.0, atol=1e-3)


def test_training_normalises_by_the_batch_and_evaluation_by_the_average():
    probe = LinearProbe((3, 4), dropout=0.0)
    variables = init(probe)
    kernel = np.asarray(variables["params"]["head"]["kernel"])
    mean, var = FEATURES.mean(axis=0), FEATURES.var(axis=0)
    logits, updated = probe.apply(
        variables, FEATURES, IDS, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)}
    )
    expected = (FEATURES - mean) / np.sqrt(var + 1e-5) @ kernel
    assert [head.shape for head in logits] == [(64, 3), (64, 4)]
    np.testing.assert_allclose(np.concatenate(logits, axis=1), expected, atol=1e-5)
    norm = updated["batch_stats"]["norm"]
    np.testing.assert_allclose(norm["mean"], 0.01 * mean, rtol=1e-4)
    np.testing.assert_allclose(norm["var"], 0.99 + 0.01 * var, rtol=1e-4)
    stats = {"norm": {"mean": jnp.asarray(mean), "var": jnp.asarray(var)}}
    evaluated = probe.apply(variables | {"batch_stats": stats}, FEATURES[:2])
    np.testing.assert_allclose(np.concatenate(evaluated, axis=1), expected[:2], atol=1e-5)


def test_dropout_acts_in_training_only():
    probe = LinearProbe((7,), dropout=0.5)
    variables = init(probe)

    def train(key):
        return probe.apply(variables, FEATURES, IDS, mutable=["batch_stats"], rngs={"dropout": key})[0][0]

    assert (train(jax.random.key(1)) != train(jax.random.key(2))).any()
    np.testing.assert_array_equal(*(probe.apply(variables, FEATURES)[0] for _ in range(2)))


def test_heads_split_the_logits_in_their_order():
    probe = LinearProbe((2, 3, 1), dropout=0.0)
    variables = init(probe)
    params = {"head": {"kernel": jnp.zeros((5, 6)), "bias": jnp.arange(6.0)}}
    logits = probe.apply(variables | {"params": params}, FEATURES[:1])
    for head, expected in zip(logits, ([0, 1], [2, 3, 4], [5]), strict=True):
        np.testing.assert_array_equal(head[0], expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("sizes", [(3, 4), (2, 2, 2), (5,)])
def test_loss_is_the_smoothed_cross_entropy_averaged_over_heads(smoothing, sizes):
    rng = np.random.default_rng(2)
    logits = [rng.standard_normal((5, size)).astype(np.float32) for size in sizes]
    labels = np.stack([rng.integers(0, size, 5) for size in sizes], axis=1)
    expected = np.zeros(5)
    for values, target in zip(logits, labels.T, strict=True):
        log_p = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
        right = log_p[np.arange(5), target]
        expected += -((1 - smoothing) * right + smoothing * log_p.mean(axis=1)) / len(sizes)
    np.testing.assert_allclose(probe_loss(logits, labels, smoothing), expected, rtol=1e-5)


def test_stacked_heads_keep_their_classes_and_take_no_others():
    flat = jnp.arange(12.0).reshape(2, 6)
    stacked = np.asarray(stack_heads(flat, (1, 3, 2)))
    assert stacked.shape == (2, 3, 3)
    np.testing.assert_array_equal(stacked[0][stacked[0] > -1e29], np.arange(6))
    losses = head_losses(jnp.asarray(stacked), jnp.zeros((2, 3), int), (1, 3, 2), 0.1)
    np.testing.assert_allclose(losses[:, 0], 0.0, atol=1e-6)  # a single class is certain
    gradient = jax.grad(lambda x: head_losses(stack_heads(x, (1, 3, 2)), jnp.zeros(3, int), (1, 3, 2), 0.1).sum())(flat)
    assert np.isfinite(gradient).all()


def test_hits_by_head():
    logits = [jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([[0.0, 0.5, 2.0], [3.0, 0.5, 2.0]])]
    hits = probe_hits(logits, jnp.array([[1, 0], [0, 0]]))
    np.testing.assert_array_equal(hits, [[True, False], [True, True]])


def test_targets_always_have_a_column_a_head():
    batch = {"label": np.array([3, 1]), "factors": np.array([[1, 2, 3], [4, 5, 6]])}
    np.testing.assert_array_equal(probe_labels(batch, "label"), [[3], [1]])
    np.testing.assert_array_equal(probe_labels(batch, "factors"), batch["factors"])
