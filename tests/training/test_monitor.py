"""Training until convergence: the rule itself, and runs that end by it, are stopped on the way, and go on."""

import json
import math
import os
import signal
import time

import jax
import numpy as np
import pytest

import soda_jax
from soda_jax.config import ConfigError
from soda_jax.objectives.step import TrainStep
from soda_jax.parallel import sharding
from soda_jax.tools.finished import is_finished
from soda_jax.training import loop as train_lib
from soda_jax.training.loop import train
from soda_jax.training.monitor import Monitor
from soda_jax.workdir import best
from soda_jax.workdir.checkpoint import latest_step, read_arrays, read_meta, saved_steps
from soda_jax.workdir.run_record import read_sessions
from tests import tiny

NAN, INF = math.nan, math.inf


def end(metric, patience, values):
    """(step at which a run of evaluations at 10, 20, ... ends or None, best step, best value)."""
    monitor = Monitor(metric, "validation", patience)
    for number, value in enumerate(values, start=1):
        monitor.update(10 * number, value)
        if monitor.exhausted:
            return 10 * number, monitor.best_step, monitor.best
    return None, monitor.best_step, monitor.best


@pytest.mark.parametrize(
    ("metric", "patience", "values", "expected"),
    [
        ("eval/loss", 20, [5, 4, 6, 6, 1], (40, 20, 4)),
        ("probe/mean", 20, [0.1, 0.3, 0.2, 0.4, 0.4, 0.3], (60, 40, 0.4)),
        ("probe/loss_of_hair", 20, [0.1, 0.3, 0.2, 0.1], (40, 20, 0.3)),  # a label's name, not a loss
        ("eval/loss", 20, [3, 3, 3, 3], (30, 10, 3)),  # as good as the best is no improvement
        ("eval/loss", 20, [3, 4, 2.999, 4, 2.998], (None, 50, 2.998)),
        ("eval/loss", 0, [1, 2, 3, 4, 5, 6], (None, 10, 1)),
        (
            "eval/loss",
            1,
            [2, 1, 1],
            (30, 20, 1),
        ),  # patience below the evaluations' distance: the first that is no better
        ("eval/loss", 15, [2, 3, 3], (30, 10, 2)),  # no multiple: the first evaluation beyond it
        ("eval/loss", 20, [NAN, 4, NAN, 3, NAN, -INF, 9], (60, 40, 3)),  # no number is never better
        ("probe/mean", 20, [NAN, INF, NAN], (30, None, None)),  # patience counts from the first evaluation
    ],
)
def test_when_a_run_ends(metric, patience, values, expected):
    assert end(metric, patience, values) == expected


@pytest.mark.parametrize("seed", range(5))
def test_stopped_anywhere_it_decides_as_if_undisturbed(seed):
    """Evaluations since the last save are made again, on what JSON kept of that time."""
    rng = np.random.default_rng(seed)
    values = rng.choice([1.0, 2.0, 3.0, 4.0, NAN], 40).tolist()
    expected = end("eval/loss", 50, values)
    monitor, saved, at, number = Monitor("eval/loss", "validation", 50), None, 0, 0
    while not monitor.exhausted and number < len(values):
        if rng.random() < 0.3:
            number, monitor = at, Monitor.resumed("eval/loss", "validation", 50, json.loads(json.dumps(saved)))
            continue
        number += 1
        monitor.update(10 * number, values[number - 1])
        if rng.random() < 0.4:
            saved, at = monitor.state(), number
    assert (10 * number if monitor.exhausted else None, monitor.best_step, monitor.best) == expected


def test_an_evaluation_that_is_made_again_counts_once():
    monitor = Monitor("eval/loss", "validation", 20)
    assert [monitor.update(10, 2.0), monitor.update(10, 1.9), monitor.update(20, 1.8)] == [True, False, True]
    assert (monitor.best, monitor.best_step) == (1.8, 20)


def test_another_metric_or_split_begins_anew_and_more_patience_goes_on():
    monitor = Monitor("eval/loss", "validation", 20)
    for step, value in ((10, 2.0), (20, 3.0), (30, 3.0)):
        monitor.update(step, value)
    state = monitor.state()
    assert monitor.exhausted and "no improvement of eval/loss on 'validation' for 20 steps" in monitor.reason
    assert Monitor.resumed("eval/loss", "validation", 20, state).exhausted
    assert not Monitor.resumed("eval/loss", "validation", 21, state).exhausted
    for other in (("probe/mean", "validation"), ("eval/loss", "test")):
        assert Monitor.resumed(*other, 20, state).best is None
    for none in (None, [], {"best": 1.0}):
        assert Monitor.resumed("eval/loss", "validation", 20, none) == Monitor("eval/loss", "validation", 20)
    # Watching no more does not forget, nor end the run.
    idle = Monitor.resumed("", "test", 0, state)
    assert (idle.active, idle.exhausted, idle.best_step, idle.state()) == (False, False, 10, state)
    assert Monitor.resumed("", "test", 0, None).state() is None


# Runs. What their evaluations find is given; all else is `train`'s.
STEPS, EVERY, PATIENCE = 40, 4, 8
LOSSES = {4: 3.0, 8: 2.0, 12: NAN, 16: 1.5, 20: 1.5, 24: 1.75}
ENDS, BEST = 24, 16


class Scripted(train_lib.OnlineEvaluator):
    """Finds the loss that `LOSSES` has for the state's step, after doing `at[step]`."""

    at = {}

    def run(self, state, between=None):
        step = int(state.step)
        if step in self.at:
            self.at.pop(step)()
        return super().run(state, between) | {"eval/loss": LOSSES.get(step, 9.0)}


class StopInData(train_lib.Recovery):
    """Asks the run to stop when the batch of a step in `at` is asked for."""

    at = set()

    def next_batch(self, batches, step, state):
        if step in self.at:
            self.at.remove(step)
            stop()
        return super().next_batch(batches, step, state)


def stop():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)


class Killed(BaseException):
    """As kill -9: nothing is saved on the way out."""


def kill():
    raise Killed


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        one = sharding.make_mesh(jax.devices()[:1])
        patch.setattr(train_lib.sharding, "make_mesh", lambda *_, **__: one)
        patch.setattr(train_lib, "Recovery", StopInData)
        patch.setattr(train_lib.build, "train_step", tiny.once(train_lib.build.train_step))
        patch.setattr(TrainStep, "jit_step", tiny.once(TrainStep.jit_step))
        patch.setattr(train_lib, "Inference", tiny.once(train_lib.Inference))
        patch.setattr(train_lib, "OnlineEvaluator", tiny.once(Scripted))
        yield patch


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny.scenes_config(
        str(tmp_path_factory.mktemp("geometry")),
        model__denoiser__multipliers=(1,),
        train__num_steps=STEPS,
        train__batch_size=4,
        train__log_every=EVERY,
        train__eval_every=EVERY,
        train__checkpoint_every=10,
        train__monitor="eval/loss",
        train__patience=PATIENCE,
        eval__num_examples=4,
        eval__batch_size=4,
    )


@pytest.fixture(scope="module")
def ended(patch, config, tmp_path_factory):
    """The workdir of a run that ended by itself."""
    folder = tmp_path_factory.mktemp("ended")
    train(config, str(folder))
    return folder


def changed(config, **fields):
    other = config.copy_and_resolve_references()
    other.train.update(fields)
    return other


def test_a_run_ends_when_it_has_not_improved(ended):
    (session,) = read_sessions(str(ended))
    assert (session["last_step"], session["finished"], session["reason"]) == (ENDS, True, "no improvement")
    assert latest_step(str(ended)) == ENDS and is_finished(str(ended))
    lines = [json.loads(line) for line in (ended / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval/loss" in line] == [4, 8, 12, 16, 20, 24]


def test_the_best_checkpoint_is_kept_beside_the_last_two(ended):
    assert sorted(saved_steps(str(ended))) == [BEST, 20, ENDS]
    assert json.loads((ended / "best.json").read_text()) == {"step": BEST, "metric": "eval/loss", "value": 1.5}
    model = soda_jax.load(ended, step="best")
    assert (model.step, soda_jax.load(ended).step) == (BEST, ENDS)
    saved = read_arrays(str(ended), BEST, ("ema",))
    for path, leaf in jax.tree_util.tree_leaves_with_path({"ema": {"ema_params": model.variables["params"]}}):
        np.testing.assert_array_equal(leaf, saved[jax.tree_util.keystr(path)])


@pytest.fixture(scope="module")
def disturbed(ended, config, tmp_path_factory):
    """(workdir, the newest checkpoint and best.json after each mishap) of a run that ends like `ended`."""
    folder, seen = tmp_path_factory.mktemp("disturbed"), []

    def run(error=None):
        if error is None:
            train(config, str(folder))
        else:
            with pytest.raises(error):
                train(config, str(folder))
        seen.append((latest_step(str(folder)), (best.read(str(folder)) or {}).get("step")))

    StopInData.at.add(5)
    run()  # between two evaluations
    Scripted.at[12] = kill
    run(Killed)  # after the best so far was saved
    Scripted.at[16] = stop
    run()  # in the evaluation that will be the best
    Scripted.at[20] = kill
    run(Killed)  # the best is known, and no step was saved since
    run()
    return folder, seen


def test_stopped_and_killed_it_ends_at_the_same_step_bit_by_bit(ended, disturbed):
    folder, seen = disturbed
    assert seen == [(6, 4), (10, 8), (16, 8), (16, 16), (ENDS, BEST)]
    for step in (BEST, ENDS):
        ours, theirs = (read_arrays(str(path), step) for path in (folder, ended))
        assert ours.keys() == theirs.keys()
        for name, expected in theirs.items():
            np.testing.assert_array_equal(ours[name], expected, err_msg=name, strict=True)
    monitors = [read_meta(str(path))[1]["monitor"] for path in (folder, ended)]
    assert monitors[0] == monitors[1]
    assert (folder / "best.json").read_text() == (ended / "best.json").read_text()
    assert read_sessions(str(folder))[-1]["reason"] == "no improvement"


def test_started_again_it_trains_only_if_it_is_to_wait_longer(disturbed, config, capsys):
    folder, _ = disturbed
    train(config, str(folder))
    said = capsys.readouterr().out
    assert f"Training had ended at step {ENDS} of {STEPS}: no improvement of eval/loss on 'test' for 8 steps" in said
    assert "raise config.train.patience" in said and f"1.5000 at step {BEST}" in said
    assert latest_step(str(folder)) == ENDS and is_finished(str(folder))
    train(changed(config, patience=PATIENCE + 1), str(folder))
    said = capsys.readouterr().out
    assert f"Training ended at step {ENDS + EVERY} of {STEPS}" in said and "raise" not in said
    assert sorted(saved_steps(str(folder))) == [BEST, ENDS, ENDS + EVERY]


def test_watching_another_metric_keeps_the_best_of_that(disturbed, config):
    """The run goes to its last step; the old best checkpoint is no longer kept."""
    folder, _ = disturbed
    train(changed(config, monitor="probe/mean", patience=0), str(folder))
    found = best.read(str(folder))
    assert found["metric"] == "probe/mean" and found["step"] > ENDS + EVERY
    assert latest_step(str(folder)) == STEPS and found["step"] in saved_steps(str(folder))
    assert BEST not in saved_steps(str(folder))
    assert read_sessions(str(folder))[-1]["reason"] == "last step"


def test_the_newest_checkpoint_tells_where_the_file_does_not(ended, tmp_path):
    """A copy of the checkpoints alone, or a file that is damaged or names one that is gone."""
    os.symlink(ended / "checkpoints", tmp_path / "checkpoints")
    for text in (None, "{", '{"step": 8, "metric": "eval/loss", "value": 2.0}', '{"step": "8"}', "[1]"):
        if text is not None:
            (tmp_path / "best.json").write_text(text)
        assert best.checkpoint_step(str(tmp_path), "best") == BEST


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"monitor": "", "patience": 5}, r"config.train.patience=5: name the metric in config.train.monitor"),
        ({"patience": -1}, r"config.train.patience=-1: must be at least 0"),
        ({"monitor": "loss"}, r"config.train.monitor='loss': must be eval/loss, probe/mean, probe/NAME"),
        ({"monitor": "probe/"}, r"config.train.monitor='probe/': must be"),
        ({"monitor": "probe_pixels/mean"}, r"config.probe.raw_pixels=False trains none on pixels"),
        (
            {"monitor": "probe/hair"},
            r"'probe/hair': no evaluation gives that; use one of eval/loss, probe/mean, probe/",
        ),
    ],
)
def test_a_metric_that_the_run_does_not_have_is_refused_before_the_first_step(patch, config, tmp_path, fields, message):
    with pytest.raises(ConfigError, match=message):
        train(changed(config, **fields), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_probe_that_is_not_trained_cannot_be_watched(patch, config, tmp_path):
    other = changed(config, monitor="probe/mean")
    other.probe.kind = "none"
    with pytest.raises(ConfigError, match=r"config.probe.kind='none' trains no probe; watch eval/loss"):
        train(other, str(tmp_path / "run"))
