"""A run that everything happens to ends bit by bit as one that nothing happened to.

All in this process, by `train` itself; `kill -9` and the command line are in test_main.py and tools/test_drill.py.
"""

import json
import os
import resource
import signal
import time

import jax
import numpy as np
import pytest

from soda_jax.data.datasets.bad_files import DatasetGoneError
from soda_jax.data.read_ahead import ReadAhead
from soda_jax.objectives.step import TrainStep
from soda_jax.parallel import sharding
from soda_jax.parallel.distributed import SharedError
from soda_jax.training import loop as train_lib
from soda_jax.training.loop import train
from soda_jax.workdir.checkpoint import CheckpointWriteError, latest_step, read_arrays, read_meta
from soda_jax.workdir.lock import WorkdirInUseError, training_lock
from soda_jax.workdir.run_record import read_sessions
from tests import tiny

STEPS, EVERY = 24, 4


class MishapInData(train_lib.Recovery):
    """Does `at[step]` when the batch of that step is asked for."""

    at = {}

    def next_batch(self, batches, step, state):
        if step in self.at:
            self._saver.verify()
            batches = self.at.pop(step)(batches)
        return super().next_batch(batches, step, state)


class MishapInEvaluation(train_lib.Loop):
    """Does `at[step]` in the evaluation of that step."""

    at = {}
    evaluated = []

    def evaluate(self, step, state):
        run, self.evaluator.run = self.evaluator.run, self.disturbed(step)
        try:
            results = super().evaluate(step, state)
        finally:
            self.evaluator.run = run
        if results:
            self.evaluated.append(step)
        return results

    def disturbed(self, step):
        run, happen = self.evaluator.run, self.at.pop(step, None)
        return lambda state, **rest: (happen() if happen else None, run(state, **rest))[1]


def stop(batches=None):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)
    return batches


def data_gone(batches):
    def fail():
        raise DatasetGoneError("the dataset's folder /data/ cannot be read any more")
        yield

    return ReadAhead(fail(), 0)


def held_out_gone():
    raise SharedError("the dataset's folder /data/ cannot be read any more")


def disk_full(batches):
    """No file may grow beyond 60,000 bytes: the checkpoint's arrays cannot be written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return batches


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_lib, "Recovery", MishapInData)
        patch.setattr(train_lib, "Loop", MishapInEvaluation)
        one = sharding.make_mesh(jax.devices()[:1])
        patch.setattr(train_lib.sharding, "make_mesh", lambda **_: one)
        patch.setattr(train_lib.build, "train_step", tiny.once(train_lib.build.train_step))
        patch.setattr(TrainStep, "jit_step", tiny.once(TrainStep.jit_step))
        for name in ("Inference", "OnlineEvaluator"):
            patch.setattr(train_lib, name, tiny.once(getattr(train_lib, name)))
        yield patch


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny.scenes_config(
        str(tmp_path_factory.mktemp("geometry")),
        model__denoiser__multipliers=(1,),
        train__num_steps=STEPS,
        train__batch_size=4,
        train__log_every=EVERY,
        train__eval_every=2 * EVERY,
        train__checkpoint_every=EVERY,
        eval__num_examples=4,
        eval__batch_size=4,
    )


@pytest.fixture(scope="module")
def undisturbed(patch, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train(config, str(folder))
    return folder


@pytest.fixture(scope="module")
def disturbed(undisturbed, config, tmp_path_factory):
    """(the workdir, {mishap: what came of it and the newest checkpoint then})."""
    folder, found = tmp_path_factory.mktemp("disturbed"), {}

    def run(name, error=None):
        if error is None:
            outcome = train(config, str(folder))
        else:
            with pytest.raises(error) as raised:
                train(config, str(folder))
            outcome = str(raised.value)
        found[name] = outcome, latest_step(str(folder))

    MishapInEvaluation.evaluated.clear()
    MishapInData.at[6] = stop
    run("stop between two checkpoints")
    MishapInEvaluation.at[8] = stop
    run("stop in an evaluation")
    MishapInData.at[11] = data_gone
    run("data", DatasetGoneError)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def run_into_full_disk(name, step):
        MishapInData.at[step] = disk_full
        try:
            run(name, CheckpointWriteError)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)

    run_into_full_disk("disk", 14)
    MishapInEvaluation.at[16] = held_out_gone
    run("held-out data", SharedError)
    run_into_full_disk("disk at the last save", STEPS - 1)
    run("end")
    return folder, found


def test_the_end_is_the_same_bit_by_bit(undisturbed, disturbed):
    folder, found = disturbed
    assert found["end"][1] == STEPS
    ours, theirs = (read_arrays(str(path), STEPS) for path in (folder, undisturbed))
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        np.testing.assert_array_equal(ours[name], expected, err_msg=name, strict=True)


def test_a_request_saves_the_step_it_comes_at(disturbed):
    assert disturbed[1]["stop between two checkpoints"] == ({}, 7)


def test_a_request_breaks_an_evaluation_off_which_is_made_up_for(disturbed):
    folder, found = disturbed
    assert found["stop in an evaluation"] == ({}, 8)
    assert MishapInEvaluation.evaluated == [8, 16, 16, STEPS, STEPS]  # the full disk lost two
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval/loss" in line] == [8, 16, STEPS]
    assert read_meta(str(folder))[1]["evaluation_due"] is False


def test_data_that_vanishes_loses_no_step(disturbed):
    message, step = disturbed[1]["data"]
    assert "cannot be read any more" in message and step == 11


def test_held_out_data_that_vanish_lose_no_step(disturbed):
    message, step = disturbed[1]["held-out data"]
    assert "cannot be read any more" in message and step == 16


def test_a_full_disk_loses_nothing_that_was_saved(disturbed):
    message, step = disturbed[1]["disk"]
    assert step == 12
    assert "the checkpoint of step 16 could not be written" in message and "the last whole one is of step 12" in message


def test_the_record_tells_of_every_start(disturbed):
    sessions = read_sessions(str(disturbed[0]))
    assert [(s["first_step"], s["last_step"], s["finished"]) for s in sessions] == [
        (0, 7, False),
        (7, 8, False),
        (8, 11, False),
        (11, 16, False),
        (12, 16, False),
        (16, STEPS, False),  # whoever sees it finished would miss the last checkpoint
        (20, STEPS, True),
    ]


def test_a_second_run_in_the_workdir(undisturbed, config, monkeypatch):
    monkeypatch.setattr(train_lib, "training_lock", lambda workdir: training_lock(workdir, patience=0.0))
    with training_lock(str(undisturbed)):
        with pytest.raises(WorkdirInUseError, match=f"process {os.getpid()}"):
            train(config, str(undisturbed))
