import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.performance import timing
from soda_jax.performance.timing import Timing


def test_shares_and_ratios_compare_runs_side_by_side():
    """A machine that is three times slower in one run changes neither."""
    part, whole = Timing((0.9, 2.7, 0.9)), Timing((1.0, 3.0, 1.0))
    assert timing.share(part, whole) == pytest.approx(0.1)
    assert timing.ratio(whole, part) == pytest.approx(1 / 0.9)


def test_median_and_spread():
    assert str(Timing((0.3, 0.1, 0.2))) == "0.2 (0.1-0.3)"
    assert str(Timing((1234.0,))) == "1,234 (1,234-1,234)"
    assert Timing((1.0, 9.0, 2.0)).median == 2.0


def test_programs_run_in_turn_as_often_as_asked():
    calls = []

    def program(name, seconds):
        def run(count):
            calls.append((name, count))
            return count * seconds

        return run

    found = timing.in_turn({"fast": program("fast", 0.125), "slow": program("slow", 4.0)}, repeats=2, min_seconds=1.0)
    assert found == {"fast": Timing((0.125, 0.125)), "slow": Timing((4.0, 4.0))}
    assert calls == [("fast", 1), ("slow", 1), *[("fast", 8), ("slow", 1)] * 2]


def test_a_run_waits_for_the_last_result():
    def slow(x):
        time.sleep(0.05)
        return np.asarray(x)

    program = jax.jit(lambda x: jax.pure_callback(slow, x, x))
    x = jnp.ones(3)
    timing.warm_up(lambda: program(x))
    assert timing.repeated(lambda: program(x))(2) >= 0.1


def test_compilation_is_counted_apart():
    program = jax.jit(lambda x: jnp.cos(x) * 3 + jnp.sin(x @ x))
    x = jnp.ones((7, 7))
    assert timing.warm_up(lambda: program(x)) > 0
    assert timing.warm_up(lambda: program(x)) == 0
