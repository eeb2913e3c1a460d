"""The loop: what a run writes, that it compiles once, and how it stops when the numbers go bad."""

import dataclasses
import json
import shutil
import time
import types

import jax
import numpy as np
import pytest

from soda_jax.config import ConfigError
from soda_jax.objectives.step import TrainStep
from soda_jax.parallel import sharding
from soda_jax.training import health
from soda_jax.training import loop as train_lib
from soda_jax.training.health import DEAD_ENCODER_STEPS, EncoderWatch, NonFiniteLossError
from soda_jax.training.loop import train
from soda_jax.training.start import initial_state
from soda_jax.training.step_timer import StepTimer
from soda_jax.workdir.checkpoint import latest_step, read_meta
from soda_jax.workdir.meta import labels_of
from soda_jax.workdir.run_record import read_sessions
from tests import tiny

STEPS, SETTLED = 50, 25  # by step 25 everything has run once: log, evaluation, save


class Spy(train_lib.Loop):
    """Notes the compilations, so far, at each log, and the last saved state."""

    compilations = 0
    latest = None

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.compiled_at = {}
        type(self).latest = self

    def log(self, step, state):
        super().log(step, state)
        self.compiled_at[step] = type(self).compilations

    def save(self, step, state):
        super().save(step, state)
        self.saved_state = state


def count_compilation(event, duration, **details):
    if "backend_compile" in event:
        Spy.compilations += 1


def noted(jit_step):
    def call(self, *arguments):
        Spy.step_fn = jit_step(self, *arguments)
        return Spy.step_fn

    return call


@pytest.fixture(scope="module")
def patch():
    """Spies on runs, which use two of the simulated devices."""
    jax.monitoring.register_event_duration_secs_listener(count_compilation)
    two = sharding.make_mesh(jax.devices()[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_lib, "Loop", Spy)
        patch.setattr(TrainStep, "jit_step", noted(TrainStep.jit_step))
        patch.setattr(train_lib.sharding, "make_mesh", lambda **_: two)
        yield patch


@pytest.fixture(scope="module")
def finished(patch, tmp_path_factory):
    """(config, workdir, results, the run, how often its step was compiled) after 50 steps."""
    folder = tmp_path_factory.mktemp("train")
    config = tiny.scenes_config(
        str(folder / "geometry"),
        train__num_steps=STEPS,
        train__batch_size=4,
        train__log_every=5,
        train__eval_every=25,
        train__checkpoint_every=10,
        train__keep_every=20,
    )
    results = train(config, str(folder / "run"))
    return config, folder / "run", results, Spy.latest, Spy.step_fn._cache_size()


def test_fifty_steps_compile_once(finished):
    *_, run, compiled = finished
    assert compiled == 1
    counts = run.compiled_at
    assert counts[5] > 0  # the listener works
    assert counts[STEPS] == counts[SETTLED + 5], "something compiled after every part of the loop had run"


def test_metrics_file(finished):
    config, workdir, results, *_ = finished
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == list(range(5, STEPS + 1, 5))
    for line in training:
        assert {"images_per_second", "learning_rate", "grad_norm/encoder", "grad_norm/denoiser"} <= line.keys()
        assert line["images_per_second"] > 0 and line["learning_rate"] == pytest.approx(config.optim.learning_rate)
    evaluations = [line for line in lines if "eval/loss" in line]
    assert [line["step"] for line in evaluations] == [25, 50]
    assert evaluations[-1] == {"step": STEPS} | {key: pytest.approx(value) for key, value in results.items()}


def test_checkpoints_kept(finished):
    _, workdir, *_ = finished
    assert sorted(child.name for child in (workdir / "checkpoints").iterdir()) == ["20", "40", "50"]
    meta = read_meta(str(workdir))[1]
    assert meta["data_position"] == STEPS
    labels = labels_of(meta)  # and their names: `classify` needs them where the data are not
    assert labels and {kind: list(found.names) for kind, found in labels.items()} == {
        kind: named["names"] for kind, named in meta["labels"].items()
    }


def test_record_of_the_run(finished):
    config, workdir, *_ = finished
    (session,) = read_sessions(str(workdir))
    assert (session["first_step"], session["last_step"], session["finished"]) == (0, STEPS, True)
    assert session["seconds"] > 0 and session["hardware"]["device_count"] == 2
    assert session["config"]["train"]["num_steps"] == config.train.num_steps


def test_more_steps_than_asked_for(finished, tmp_path):
    config, workdir, *_ = finished
    fewer = config.copy_and_resolve_references()
    fewer.train.num_steps = 30
    with pytest.raises(ValueError, match="config.train.num_steps=30: .* is already at step 50; ask for more steps"):
        train(fewer, str(workdir))


def test_another_model_in_the_workdir(finished):
    config, workdir, *_ = finished
    other = config.copy_and_resolve_references()
    other.model.latent_dim = 32
    other.data.name = "scenes_free"
    saved = types.SimpleNamespace(step=STEPS, meta=read_meta(str(workdir))[1])
    with pytest.raises(ValueError) as error:
        initial_state(other, str(workdir), None, {}, saved, sharding.make_mesh())
    assert "config.model.latent_dim: 16 -> 32" in str(error.value)
    assert "config.data.name: 'scenes' -> 'scenes_free'" in str(error.value)


def test_impossible_config_stops_before_anything_is_opened(patch, tmp_path):
    config = tiny.scenes_config(str(tmp_path / "geometry"), train__batch_size=5)
    with pytest.raises(ConfigError, match="config.train.batch_size=5"):
        train(config, str(tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_probe_of_targets_that_the_data_lacks(patch, finished, tmp_path):
    config = finished[0].copy_and_resolve_references()
    config.probe.kind = "attributes"
    with pytest.raises(ConfigError, match=r"config.probe.kind='attributes': .* \(it has: factors\)"):
        train(config, str(tmp_path / "run"))


def test_diverging_run_stops_without_saving(patch, finished, tmp_path):
    """Resumes a good run with an absurd learning rate; its first steps are good, one after is not."""
    config, workdir, *_ = finished
    shutil.copytree(workdir, tmp_path / "run")
    config = config.copy_and_resolve_references()
    config.train.num_steps = 100
    config.optim.learning_rate, config.optim.clip_norm = 1e30, 1e30
    with pytest.raises(NonFiniteLossError) as error:
        train(config, str(tmp_path / "run"))
    message = str(error.value)
    assert "at step 52" in message and "the last good checkpoint is step 50" in message
    assert "encoder/stage1_unit1" in message and "denoiser/conv_out" in message
    assert "config.optim.learning_rate" in message
    assert latest_step(str(tmp_path / "run")) == 50
    assert max(int(child.name) for child in (tmp_path / "run" / "checkpoints").iterdir()) == 50
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["step"] for line in lines) == 50


def test_overflowing_update_is_not_saved(finished):
    """The loss of a step is finite, but not the parameters that it leaves behind."""
    *_, run, _ = finished
    state = run.saved_state
    bad = dataclasses.replace(state, params=jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(np.nan), state.params))
    with pytest.raises(NonFiniteLossError, match="the update of step 51 .* the last good checkpoint is step 50"):
        run.save(51, bad)
    assert latest_step(run.workdir) == 50


def test_a_finished_run_started_again_writes_nothing_twice(finished, tmp_path):
    config, workdir, results, *_ = finished
    shutil.copytree(workdir, tmp_path / "run")
    assert train(config, str(tmp_path / "run")) == pytest.approx(results)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == (workdir / "metrics.jsonl").read_text()


def test_a_shorter_end_than_was_asked_for_is_evaluated(finished, tmp_path):
    """Stopped between evaluations and then asked for no more steps: what is shown is written too, once."""
    config, workdir, *_ = finished
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "50")
    config = config.copy_and_resolve_references()
    config.train.num_steps = 40
    for _ in range(2):
        results = train(config, str(tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (found,) = [line for line in lines if line["step"] == 40 and "eval/loss" in line]
    assert found["eval/loss"] == pytest.approx(results["eval/loss"])


def test_a_resumed_run_finds_the_same_use_of_the_latent(finished, tmp_path):
    config, workdir, results, *_ = finished
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "50")
    again = train(config, str(tmp_path / "run"))
    names = [name for name in results if name.startswith("latent_use/")]
    assert {"latent_use/own", "latent_use/other_t3", "latent_use/saved_error"} <= set(names)
    assert [again[name] for name in names] == pytest.approx([results[name] for name in names], abs=1e-6)


def test_dead_encoder_is_reported_once_after_a_hundred_steps(monkeypatch):
    warnings = []
    monkeypatch.setattr(health.logging, "warning", lambda text, *values: warnings.append(text % values))
    watch = EncoderWatch()
    watch.update([1e-9] * (DEAD_ENCODER_STEPS - 1) + [1e-7])  # one live step starts the count anew
    watch.update([1e-9] * (DEAD_ENCODER_STEPS // 2))
    watch.update([0.0] * (DEAD_ENCODER_STEPS // 2 - 1))
    assert warnings == []
    watch.update([0.0])
    assert len(warnings) == 1 and "below 1e-08 for 100 steps" in warnings[0]
    watch.update([0.0] * 500)
    assert len(warnings) == 1


def test_timer_leaves_out_compilation_and_pauses(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    timer = StepTimer()
    now = 60.0
    timer.first_step_done(None)  # the first of the run, which compiles
    assert timer.interval(1) is None
    now = 62.0
    with timer.paused():
        now = 72.0
    now = 74.0
    assert timer.interval(4) == pytest.approx(1.0)
    now = 75.0
    assert timer.interval(2) == pytest.approx(0.5)
