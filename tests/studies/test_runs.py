"""What a run is told, what it is known by, and what makes a comparison fair."""

import dataclasses

import pytest

from soda_jax.studies import fairness
from soda_jax.studies.definition import Row
from soda_jax.studies.runs import write_marker
from tests.studies import made


def test_flags_and_configs_of_rows(tmp_path):
    runs = made.runs(tmp_path)
    assert [(run.row.name, run.seed) for run in runs[:4]] == [
        ("SODA", 0), ("w/o scale", 0), ("one step", 0), ("SODA", 1),
    ]  # fmt: skip
    plain, scale, sampled = runs[:3]
    assert scale.folder == tmp_path / "w_o_scale" / "seed0" and sampled.source == plain.folder
    assert "--variant=w/o scale modulation" in scale.arguments and scale.config.model.modulation.use_scale is False
    assert plain.config.train.num_steps == 10 and plain.config.train.patience == 0 and runs[3].config.seed == 1
    assert [row[0] for row in fairness.difference(scale, plain)] == ["model.modulation.use_scale"]
    assert [row[0] for row in fairness.difference(sampled, plain)] == ["sampling.num_steps"]


def test_digests_tell_training_from_measuring(tmp_path):
    first = made.runs(tmp_path)[0]
    measured = made.runs(tmp_path, made.changed({"eval.probe_epochs": 3}))[0]
    trained = made.runs(tmp_path, made.changed({"optim.learning_rate": 0.5}))[0]
    moved = made.runs(tmp_path, given=["--config.data.root=/elsewhere"])[0]
    assert first.trained_as == measured.trained_as and first.measured_as != measured.measured_as
    assert first.trained_as != trained.trained_as
    assert first.measured_as == moved.measured_as
    assert len({run.measured_as for run in made.runs(tmp_path)}) == 6


def test_misfits_are_told_apart(tmp_path):
    run = made.runs(tmp_path)[0]
    assert run.misfit() == "" and not run.is_done
    run.folder.mkdir(parents=True)
    (run.folder / "metrics.jsonl").touch()
    assert run.misfit() == "unknown"
    write_marker(run.folder, {"trained_as": run.trained_as, "measured_as": None})
    assert run.misfit() == ""
    write_marker(run.folder, {"trained_as": run.trained_as, "measured_as": "another"})
    assert run.misfit() == "figures"
    write_marker(run.folder, {"trained_as": "another", "measured_as": run.measured_as})
    assert run.misfit() == "training"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--config.model.modulation.use_scale=True"], "the row 'w/o scale' is about this field"),
        (["--config.seed=3"], "the study sets it"),
        (["--config.train.num_stepps=3"], "num_step"),
        (["--config.train.num_steps=many"], "num_steps"),
    ],
)
def test_wrong_fields_are_named(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        made.runs(tmp_path, given=given)


def test_a_checkpoint_stands_for_training_where_one_row_trains(tmp_path):
    with pytest.raises(ValueError, match="made trains several models"):
        made.runs(tmp_path, checkpoint="somewhere")
    study = dataclasses.replace(made.STUDY, rows=(made.STUDY.rows[0], made.STUDY.rows[2]), claims=())
    source, sampled = made.runs(tmp_path, study, checkpoint="somewhere")[:2]
    fairness.check([source, sampled])
    assert source.init_from == "somewhere" and source.config.optim.learning_rate == 0
    assert source.config.train.num_steps == sampled.config.train.num_steps == 1
    assert sampled.measured_as != made.runs(tmp_path, study, checkpoint="elsewhere")[1].measured_as


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train.num_steps": 20}, "sees 320 images and 'SODA' 160"),
        ({"model.encoder.name": "vit_mini"}, "model.encoder.name='vit_mini', not 'vit_micro'"),
        ({}, "are one and the same config"),
        ({"sampling.num_steps": 0}, r"config.sampling.num_steps=0.* \(other\)"),
        ({"eval.evaluators": ("novel_view",)}, r"novel_view.*\(other\)"),
    ],
)
def test_unfair_rows_are_refused(tmp_path, fields, message):
    study = dataclasses.replace(made.STUDY, rows=(made.STUDY.rows[0], Row("other", fields=fields)), claims=())
    with pytest.raises(ValueError, match=message):
        fairness.check(made.runs(tmp_path, study))


def test_as_many_images_in_other_batches_are_fair(tmp_path):
    row = Row("other", fields={"train.num_steps": 5, "train.batch_size": 32})
    study = dataclasses.replace(made.STUDY, rows=(made.STUDY.rows[0], row), claims=())
    fairness.check(made.runs(tmp_path, study))
