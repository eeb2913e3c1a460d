"""What the long parts of an evaluation show on stderr, and what short ones do not."""

import jax
import numpy as np
import pytest

from soda_jax.evaluation import progress
from soda_jax.evaluation.evaluators.few_shot import FewShot
from soda_jax.evaluation.evaluators.knn import KNN
from soda_jax.evaluation.evaluators.linear_probe import OfflineProbe
from soda_jax.evaluation.feature_sets import FeatureSet
from soda_jax.evaluation.progress import num_batches, shown


def test_items_pass_and_are_counted(monkeypatch, capsys):
    monkeypatch.setattr(progress, "QUIET", 0.0)
    assert list(shown(iter("abc"), "encoding", 3)) == ["a", "b", "c"]
    ended = capsys.readouterr()
    assert ended.out == "" and "encoding: 100%" in ended.err and "3/3" in ended.err


def test_what_is_short_shows_nothing(capsys):
    assert list(shown(range(5), "encoding")) == list(range(5))
    assert capsys.readouterr().err == ""


def test_other_processes_show_nothing(monkeypatch, capsys):
    monkeypatch.setattr(progress, "QUIET", 0.0)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert list(shown(range(5), "encoding")) == list(range(5))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("examples", "limit", "expected"), [(10, None, 3), (10, 0, 3), (10, 8, 2), (8, 100, 2)])
def test_batches_of_a_split(examples, limit, expected):
    assert num_batches(examples, limit, 4) == expected


def test_probes_and_few_shot_probes_show_theirs(monkeypatch, capsys):
    monkeypatch.setattr(progress, "QUIET", 0.0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (40, 1))
    split = FeatureSet((labels + rng.normal(size=(40, 3))).astype(np.float32), labels, (2,), ("label",))
    probe = OfflineProbe((1e-2,), 2)
    for evaluator, what in ((probe, "probe: 100%"), (FewShot(probe, (0.5,), 1), "probe: 100%"), (KNN((1,)), "")):
        evaluator.run(split, split)
        assert what in capsys.readouterr().err
