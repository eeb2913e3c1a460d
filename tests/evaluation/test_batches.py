"""Batches shared by processes: the rows that each scores, joined, are the whole batch in its order."""

import jax
import numpy as np
import pytest

from soda_jax.evaluation import batches


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_rows_of_all_processes_are_the_batch(monkeypatch, count, shape):
    values = np.arange(np.prod(shape)).reshape(shape)
    monkeypatch.setattr(jax, "process_count", lambda: count)
    parts = []
    for index in range(count):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        parts.append(values[batches.rows_of_this_process()])
    assert {len(part) for part in parts} == {6 // count}

    def join(part, tiled):
        assert tiled and part.shape == (1, *parts[0].shape)
        return np.stack(parts)

    monkeypatch.setattr(batches.multihost_utils, "process_allgather", join)
    for part in parts:
        np.testing.assert_array_equal(batches.all_gather_rows(part), values)
