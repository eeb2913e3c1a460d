"""The file of an evaluation: what it holds, and what of an earlier evaluation stays."""

import json

import jax
import numpy as np
import pytest

from soda_jax.evaluation import record as evaluation_record
from soda_jax.evaluation.record import table, write
from soda_jax.metrics.bootstrap import Estimate
from soda_jax.workdir.digest import weights_digest
from tests import tiny

ACCURACY = Estimate(0.5, 0.4, 0.6, 100)
VIEWS = Estimate(20.0, 19.0, 21.0, 8, "objects")


def written(folder, results, evaluators=("knn", "linear_probe"), weights="abc", **overrides):
    config = tiny.get_config(eval__evaluators=evaluators, **overrides)
    rest = {"model": "SODA", "num_images": {"train": 100}, "weights": weights, "devices": jax.devices()[:2]}
    path = write(str(folder), 7, results, config, **rest)
    assert path == folder / "evaluation_00000007.json" and not list(folder.glob("*.tmp"))
    return json.loads(path.read_text())


def test_what_it_holds(tmp_path):
    record = written(tmp_path, {"SODA": {"knn20/label": ACCURACY, "linear_probe/learning_rate": 0.01}})
    assert record["format_version"] == 2 and record["step"] == 7 and record["weights"] == "abc"
    assert record["results"]["SODA"] == {
        "knn20/label": {"value": 0.5, "low": 0.4, "high": 0.6, "count": 100, "over": "images"},
        "linear_probe/learning_rate": {"value": 0.01, "low": None, "high": None, "count": None, "over": None},
    }
    assert record["num_images"] == {"train": 100}
    assert record["settings"]["eval"]["knn_k"] == [20, 200] and record["settings"]["sampling"]["num_steps"] == 2
    assert record["hardware"]["device_count"] == 2 and record["hardware"]["platform"] == "cpu"
    assert record["versions"]["jax"] == jax.__version__
    assert record["date"].endswith("+00:00")
    assert "earlier" not in record


def test_figures_of_other_evaluators_stay(tmp_path):
    """What an evaluator measures again replaces its figures, also those under other settings."""
    old = {"knn20/label": ACCURACY, "knn200/label": ACCURACY, "few_shot_1pct/label": ACCURACY}
    written(
        tmp_path, {"SODA": old, "raw pixels": {"knn20/label": ACCURACY}}, ("knn", "few_shot"), eval__knn_k=(20, 200)
    )
    written(tmp_path, {"SODA": {"novel_view1/psnr": VIEWS}}, ("novel_view",), data__view_policy="augment")
    new = Estimate(0.7, 0.6, 0.8, 100)
    record = written(tmp_path, {"SODA": {"knn20/label": new}}, ("knn",), eval__knn_k=(20,))
    assert set(record["results"]["SODA"]) == {"knn20/label", "few_shot_1pct/label", "novel_view1/psnr"}
    assert record["results"]["SODA"]["knn20/label"]["value"] == 0.7
    assert "raw pixels" not in record["results"]
    assert record["evaluators"] == ["knn"]
    assert [session["evaluators"] for session in record["earlier"]] == [["novel_view"], ["few_shot"]]
    assert record["earlier"][1]["settings"]["eval"]["knn_k"] == [20, 200]
    assert all("results" not in session and session["date"] for session in record["earlier"])


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "def"},
        {"data__eval_split": "validation"},
        {"data__test_split": "validation"},
        {"data__name": "other"},
        {"data__source_resolution": 16},
    ],
)
def test_nothing_of_other_weights_or_data_stays(tmp_path, change):
    written(tmp_path, {"SODA": {"novel_view1/psnr": VIEWS}}, ("novel_view",))
    record = written(tmp_path, {"SODA": {"knn20/label": ACCURACY}}, ("knn",), **change)
    assert set(record["results"]["SODA"]) == {"knn20/label"} and "earlier" not in record


def test_the_same_split_under_the_other_name_is_the_same_data(tmp_path):
    """Training now watches another split than the one that was, and is, scored."""
    written(tmp_path, {"SODA": {"novel_view1/psnr": VIEWS}}, ("novel_view",), data__eval_split="test")
    settings = {"data__eval_split": "validation", "data__test_split": "test"}
    record = written(tmp_path, {"SODA": {"knn20/label": ACCURACY}}, ("knn",), **settings)
    assert set(record["results"]["SODA"]) == {"knn20/label", "novel_view1/psnr"}


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"step": 7, "results": {"SODA": {"knn20/label": 0.1}}}', '{"format_version": 2}']
)
def test_files_of_the_first_format_or_damaged_are_replaced(tmp_path, content):
    (tmp_path / "evaluation_00000007.json").write_text(content)
    record = written(tmp_path, {"SODA": {"novel_view1/psnr": VIEWS}}, ("novel_view",))
    assert set(record["results"]["SODA"]) == {"novel_view1/psnr"}


def test_the_table_shows_intervals():
    text = table({"SODA": {"knn20/label": ACCURACY, "rate": 0.003}, "raw pixels": {"knn20/label": ACCURACY}}, 7)
    lines = text.splitlines()
    assert lines[0].split() == ["step", "7", "SODA", "raw", "pixels"]
    assert lines[2].split("  ")[0] == "knn20/label" and lines[2].count("0.5000 [0.4000, 0.6000]") == 2
    assert lines[3].split() == ["rate", "0.003"]


def test_a_digest_of_the_weights():
    values, zeros = np.arange(3, dtype=np.float32), np.zeros((2, 2), np.float32)
    weights = {"params": {"a": values, "b": zeros}}
    same = jax.device_put(weights)
    moved = {"params": {"b": values, "a": zeros}}
    other = {"params": {"a": np.nextafter(values, 9), "b": zeros}}
    digests = [weights_digest(tree) for tree in (weights, same, moved, other)]
    assert digests[0] == digests[1] and len(set(digests)) == 3
    assert evaluation_record.FORMAT_VERSION == 2
