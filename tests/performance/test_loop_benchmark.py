"""The training loop under the clock."""

import time

import pytest

from soda_jax import build
from soda_jax.performance import loop_benchmark
from soda_jax.tools import benchmark
from tests import tiny

pytestmark = pytest.mark.slow

WAIT = 0.2


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(config, shares) of a loop whose every batch takes `WAIT` seconds more than it should."""
    folder = tmp_path_factory.mktemp("geometry")
    config = tiny.scenes_config(str(folder), train__batch_size=8, train__log_every=2, train__checkpoint_every=100)

    def slow(batches):
        for batch in batches:
            time.sleep(WAIT)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        iterate = loop_benchmark.iterate
        patch.setattr(loop_benchmark, "iterate", lambda *a, **k: slow(iterate(*a, **k)))
        dataset = build.dataset(config, config.data.train_split)
        return config, loop_benchmark.measure(config, dataset, repeats=2, min_seconds=0.5)


def test_the_wait_for_input_is_found(measured):
    _, found = measured
    assert all(seconds >= WAIT for seconds in found["loop"].values)
    assert found["input_wait"] * found["loop"].median >= 0.9 * WAIT
    assert 0 < found["loop_overhead"] < 1
    assert found["resident"].median < found["loop"].median


def test_logging_and_checkpoints_are_spread_over_their_steps(measured):
    config, found = measured
    step = found["resident"].median
    assert found["logging"] == pytest.approx(found["logging_seconds"] / (2 * step)) and found["logging"] > 0
    assert found["checkpoints"] == pytest.approx(found["checkpoint_seconds"] / (100 * step))
    assert 0 < found["checkpoint_blocked_seconds"] <= found["checkpoint_seconds"]
    table = benchmark.loop_table(config, found)
    assert "waiting for input" in table and "s every 2 steps" in table and "s every 100 steps" in table
