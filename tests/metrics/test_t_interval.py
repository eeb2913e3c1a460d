import numpy as np
import pytest
from scipy import stats

from soda_jax.metrics.t_interval import t_interval


def test_the_interval_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, 4))
    found = [t_interval(values) for values in draws]
    covered = np.mean([estimate.low <= 3.0 <= estimate.high for estimate in found])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_it_is_scipys_own_test():
    """An interval of differences leaves out 0 exactly where the paired t-test is below 5 %."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        first, second = rng.normal(0.7, 1, 5), rng.normal(0, 1, 5)
        found = t_interval(first - second)
        assert (found.low > 0 or found.high < 0) == (stats.ttest_rel(first, second).pvalue < 0.05)


def test_few_values():
    assert t_interval([]) is None
    one = t_interval([2.0])
    assert one.value == 2.0 and one.count == 1 and np.isinf([one.low, one.high]).all()
    same = t_interval([2.0, 2.0, 2.0])
    assert same.low == same.high == 2.0


@pytest.mark.parametrize(("values", "message"), [([1.0, np.nan], "1 of 2"), ([[1.0]], "have shape")])
def test_wrong_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        t_interval(values)
