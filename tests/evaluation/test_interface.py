"""A new evaluator is one file and one entry: checks, the mode, the table and reports find it there."""

import pathlib
import sys
import types

import pytest

from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.config.evaluators import EVALUATORS, EvaluatorEntry, table_rows, wanted
from soda_jax.evaluation import evaluators, features, interface
from soda_jax.evaluation.evaluate import evaluate
from soda_jax.reporting.metric_names import describe
from tests import tiny, tiny_checkpoint
from tests.evaluation.test_splits import Split


def test_every_file_is_listed_and_every_entry_has_its_file():
    files = {path.stem for path in pathlib.Path(evaluators.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == set(EVALUATORS)
    for name, entry in EVALUATORS.items():
        assert entry.reads in ("features", "images")
        members = ("run", "features") if entry.reads == "features" else ("run", "num_images")
        loaded = interface.load(name)
        assert hasattr(loaded, members[0]) and loaded.__module__.endswith(f".{name}")


def test_checked_fields_exist():
    config = tiny.get_config()
    for entry in EVALUATORS.values():
        for field in (*entry.ranges, *entry.choices, *entry.items):
            section, name = field.split(".")
            assert name in config[section], field


def test_they_run_in_the_order_of_the_list():
    config = tiny.get_config(eval__evaluators=("novel_view", "disentanglement", "reconstruction", "knn"))
    assert wanted(config, "features") == ["knn", "disentanglement"]
    assert wanted(config, "images") == ["reconstruction", "novel_view"]


class WidthOfFeatures:
    """The simplest evaluator of features: how wide they are, and of how many examples."""

    def __init__(self, context):
        self.features = context.shared_request()

    def run(self, row):
        return {"width/of_features": float(row.train.features.shape[1]), "width/examples": float(len(row.test.labels))}


class CountOfImages:
    """The simplest evaluator of images."""

    def __init__(self, context):
        self.num_images = len(context.dataset)

    def run(self, variables):
        assert "params" in variables
        return {"SODA": {"count/of_images": 1.0}, "a baseline": {"count/of_images": 0.5}}


@pytest.fixture
def added(monkeypatch):
    entries = {
        "width": EvaluatorEntry(reads="features", gives="", heading="Widths", ranges={"eval.dci_test": (1, 7)}),
        "count": EvaluatorEntry(reads="images", gives="What there is.", heading="Counts"),
    }
    for (name, entry), implementation in zip(entries.items(), (WidthOfFeatures, CountOfImages), strict=True):
        monkeypatch.setitem(EVALUATORS, name, entry)
        module = types.ModuleType(name)
        module.Evaluator = implementation
        monkeypatch.setitem(sys.modules, f"soda_jax.evaluation.evaluators.{name}", module)


def test_an_added_one_is_checked_run_and_recorded(added, tmp_path, monkeypatch, capsys):
    found = {"train": Split(12, 0), "test": Split(9, 1)}
    monkeypatch.setattr(build, "dataset", lambda config, split: found[split])
    monkeypatch.setattr(features, "CALIBRATION_BATCHES", 1)
    settings = {"eval__evaluators": ("count", "width")}
    with pytest.raises(config_lib.ConfigError, match=r"config.eval.dci_test=5000: must be between 1 and 7"):
        config_lib.validate(tiny.get_config(**settings))
    config = tiny.get_config(**settings, eval__dci_test=7)
    tiny_checkpoint.write(tmp_path, config, 3)
    results = evaluate(config, str(tmp_path))
    assert results == {
        "SODA": {"width/of_features": 16.0, "width/examples": 9.0, "count/of_images": 1.0},
        "untrained encoder": {"width/of_features": 16.0, "width/examples": 9.0},
        "raw pixels": {"width/of_features": 8.0 * 8 * 3, "width/examples": 9.0},
        "a baseline": {"count/of_images": 0.5},
    }
    assert "count/of_images" in capsys.readouterr().out
    assert ("`count`", "What there is.") in [row[:2] for row in table_rows()]


def test_an_unknown_name_is_answered_with_the_added_ones_too(added):
    with pytest.raises(config_lib.ConfigError, match="names nothing; known are knn, .*, width, count"):
        config_lib.validate(tiny.get_config(eval__evaluators=("nothing",)))


@pytest.mark.parametrize("name", EVALUATORS)
def test_reports_put_its_figures_under_its_heading(name):
    assert describe(f"{name}/psnr").group == EVALUATORS[name].heading
