"""Reading a run: both formats of evaluations, and files that are damaged or missing."""

import math

import pytest

from soda_jax.config import variants
from soda_jax.metrics.bootstrap import Estimate
from soda_jax.reporting import facts, recipes, workdir
from soda_jax.workdir.run_record import NO_IMPROVEMENT, RunRecord
from tests import tiny, tiny_checkpoint
from tests.reporting import made_runs


def test_old_and_new_evaluations(tmp_path):
    made_runs.evaluation(tmp_path, 20, {"SODA": {"knn20/label": 0.45, "linear_probe/label": None}})
    made_runs.evaluation(tmp_path, 10, made_runs.NEW_RESULTS, format_version=2, date="2026-01-02T03:04:05")
    first, second = workdir.read(str(tmp_path)).evaluations
    assert (first.step, second.step) == (10, 20)  # in the order of steps, not of the format
    assert first.results["SODA"]["linear_probe/label"] == Estimate(0.7012, 0.6971, 0.7055, 50_000, "images")
    assert first.results["SODA"]["linear_probe/learning_rate"] == 0.003
    assert first.details == {"format_version": 2, "date": "2026-01-02T03:04:05"}
    assert second.results["SODA"]["knn20/label"] == 0.45 and second.details == {}
    assert math.isnan(second.results["SODA"]["linear_probe/label"])


def test_the_best_step(tmp_path):
    config = tiny.get_config(train__num_steps=1000, data__eval_split="validation", data__test_split="test")
    RunRecord(str(tmp_path), config, 0).finish(400, NO_IMPROVEMENT)
    assert workdir.read(str(tmp_path)).best is None
    (tmp_path / "best.json").write_text('{"step": 300, "metric": "probe/mean", "value": 0.71239}')
    data = workdir.read(str(tmp_path))
    found = facts.facts(data, recipes.flatten(data.config), "")
    assert ("Best step", "300", "probe/mean 0.7124 on validation; ended: no improvement") in found
    assert found[0][2] == "train, watched on validation, measured on test"
    (tmp_path / "best.json").write_text("{")
    assert "Best step" not in [heading for heading, *_ in facts.facts(workdir.read(str(tmp_path)), {}, "")]


def test_the_papers_variant_that_a_run_was_asked_to_be(tmp_path):
    config = tiny.get_config()
    variants.apply(config, "w/o layer modulation")
    RunRecord(str(tmp_path), config, 0)
    flat = recipes.flatten(workdir.read(str(tmp_path)).config)
    data = workdir.read(str(tmp_path))
    assert ("Variant", "w/o layer modulation", "") in facts.facts(data, flat, "")
    other = flat | {"model.modulation.kind": "sum"}
    assert ("Variant", "w/o layer modulation", "but with model.modulation.kind sum") in facts.facts(data, other, "")
    assert ("Variant", "mine", "") in facts.facts(data, flat | {"variant": "mine"}, "")
    assert "Variant" not in [heading for heading, *_ in facts.facts(data, flat | {"variant": ""}, "")]


def test_curves_leave_out_what_is_no_number(tmp_path):
    lines = [{"step": 5, "loss": 1.0}, {"step": 10, "loss": None, "rate": 3}, {"step": 10, "eval/loss": 0.5}]
    made_runs.metrics(tmp_path, lines[2], *lines[:2], '{"step": 15, "lo', "[1]", "7", "")
    data = workdir.read(str(tmp_path))
    assert data.curves == {"loss": [(5, 1.0)], "rate": [(10, 3.0)], "eval/loss": [(10, 0.5)]}
    assert data.step == 10
    assert data.warnings == ["metrics.jsonl: 4 lines could not be read (a killed run may cut one short)."]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 3}', '{"step": 3, "results": {"SODA": [1]}}'])
def test_damaged_evaluations_are_named_and_left_out(tmp_path, text):
    made_runs.metrics(tmp_path, {"step": 1, "loss": 1.0})
    (tmp_path / "evaluation_00000003.json").write_text(text)
    data = workdir.read(str(tmp_path))
    assert data.evaluations == []
    assert len(data.warnings) == 1 and data.warnings[0].startswith("evaluation_00000003.json could not be read (")


def test_newer_formats_are_read_with_a_warning(tmp_path):
    made_runs.evaluation(tmp_path, 5, made_runs.NEW_RESULTS, format_version=99)
    data = workdir.read(str(tmp_path))
    assert len(data.evaluations) == 1 and "format 99" in data.warnings[0]


def test_pictures_by_name_and_step(tmp_path):
    for name in (
        "images/reconstructions_00000200.png",
        "images/reconstructions_00000100.png",
        "samples/turntable_00000200_seed1.gif",
        "drawn.png",
        "images/notes.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [(picture.name, picture.step) for picture in workdir.read(str(tmp_path)).pictures]
    assert found == [("drawn", -1), ("reconstructions", 100), ("reconstructions", 200), ("turntable_seed1", 200)]


def test_config_of_the_checkpoint_goes_before_that_of_a_later_start(tmp_path):
    tiny_checkpoint.write(tmp_path, tiny.get_config(train__batch_size=32), 40)
    made_runs.record(tmp_path, tiny.get_config(train__batch_size=64), (0, 0))
    data = workdir.read(str(tmp_path))
    assert data.step == 40 and data.config["train"]["batch_size"] == 32
    assert data.config["data"]["crop_scale"] == (0.08, 1.0)


def test_config_before_the_first_checkpoint(tmp_path):
    made_runs.record(tmp_path, tiny.get_config(train__batch_size=64), (0, 0))
    data = workdir.read(str(tmp_path))
    assert data.step == 0 and data.config["train"]["batch_size"] == 64 and data.warnings == []


def test_an_unreadable_checkpoint_does_not_hide_the_rest(tmp_path):
    meta = tmp_path / "checkpoints" / "7" / "meta"
    meta.mkdir(parents=True)
    (meta / "metadata").write_text("{")
    made_runs.metrics(tmp_path, {"step": 9, "loss": 1.0})
    data = workdir.read(str(tmp_path))
    assert data.step == 9 and data.config == {} and "checkpoint's description" in data.warnings[0]


def test_folders_without_a_run(tmp_path):
    with pytest.raises(ValueError, match="there is no such folder"):
        workdir.read(str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="holds no run"):
        workdir.read(str(tmp_path))
