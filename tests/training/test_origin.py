"""--init_from: a new run begins with the weights of another model, with all else new, and says where they are from."""

import dataclasses
import json
import types

import jax
import pytest

from soda_jax import build
from soda_jax.config import ConfigError
from soda_jax.data.datasets import Labels
from soda_jax.objectives.step import TrainStep
from soda_jax.parallel import sharding
from soda_jax.reporting import facts, recipes, workdir
from soda_jax.sharing import shipped
from soda_jax.training import loop
from soda_jax.training.loop import train
from soda_jax.training.origin import find_origin
from soda_jax.training.start import initial_state
from soda_jax.workdir import best
from soda_jax.workdir.checkpoint import read_meta
from soda_jax.workdir.run_record import read_sessions
from tests import tiny, tiny_checkpoint, tiny_exports

CLASSES = tuple("abcdefghij")
LABELS = {"label": Labels((10,), ("label",), CLASSES)}
NEW = types.SimpleNamespace(step=None, meta={})  # a checkpointer of a run that has none


@pytest.fixture(scope="module")
def config():
    return tiny.get_config(probe__kind="label")


@pytest.fixture(scope="module")
def models(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("models")
    tiny_exports.write(folder / "scenes", config, labels=LABELS)
    return folder


@pytest.fixture(autouse=True)
def pretrained(models, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", models)
    return models


@pytest.fixture(scope="module")
def made(config):
    """The training step."""
    return tiny.train_step(config)


def start(config, train_step, origin, labels=LABELS, mesh=None):
    mesh = sharding.make_mesh(jax.devices()[:1]) if mesh is None else mesh
    return initial_state(config, "/nowhere", train_step, tiny.batch(), NEW, mesh, origin, labels)[0]


def test_weights_are_the_models_and_all_else_is_new(config, made, tmp_path, capsys):
    origin = find_origin(config, str(tmp_path), "scenes")
    fresh = jax.device_get(start(config, made, None))
    state = jax.device_get(start(config, made, origin))
    expected = tiny_checkpoint.random_variables(config, seed=7)
    tiny.assert_equal(state.params, expected["params"])
    tiny.assert_equal(state.ema_params, expected["params"])
    tiny.assert_equal(state.batch_stats, expected["batch_stats"])
    tiny.assert_equal(state.ema_batch_stats, expected["batch_stats"])
    tiny.assert_equal(state.opt_state, fresh.opt_state)
    assert state.step == 0
    probe = tiny_checkpoint.random_probe(16, 10, seed=7)
    tiny.assert_equal(state.probe.params["latent"], probe["params"])
    tiny.assert_equal(state.probe.batch_stats["latent"], probe["batch_stats"])
    tiny.assert_equal(state.probe.opt_state, fresh.probe.opt_state)
    for name in state.probe.params.keys() - {"latent"}:
        tiny.assert_equal(state.probe.params[name], fresh.probe.params[name])
    assert "starting from scenes at step 7: its averaged weights, with a new optimiser" in capsys.readouterr().out
    assert origin.record == {"place": "scenes", "step": 7, "weights_digest": origin.weights_digest}


def test_devices_that_share_the_state(config, made, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SPLIT_SIZE", 64)
    mesh = sharding.make_mesh(jax.devices()[:4], fsdp=2)
    shared = dataclasses.replace(made, devices=mesh)
    state = start(config, shared, find_origin(config, str(tmp_path), "scenes"), mesh=mesh)
    expected = tiny_checkpoint.random_variables(config, seed=7)
    tiny.assert_equal(jax.device_get(state.params), expected["params"])
    placed = jax.tree.map(lambda leaf, place: leaf.sharding == place, state, sharding.state_sharding(state, mesh))
    assert all(jax.tree.leaves(placed))
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(state.ema_params))


@pytest.mark.parametrize("family", ["frozen", "vae_factor"])
def test_what_no_average_has_or_no_step_moves(family, pretrained, tmp_path, capsys):
    """A frozen encoder comes along, and its own source is not asked for; an adversary starts anew."""
    config = tiny.get_config(model__family=family, probe__kind="none")
    expected = tiny_exports.write(pretrained / family, config).variables["params"]
    state = start(config, tiny.train_step(config), find_origin(config, str(tmp_path), family))
    tiny.assert_equal(jax.device_get(state.ema_params), expected)
    assert ("encoder" in state.params) == (family != "frozen")
    tiny.assert_equal(jax.device_get(state.params), {name: expected[name] for name in state.params})
    assert (state.adversary is not None) == (family == "vae_factor")
    assert ("the adversary starts anew" in capsys.readouterr().out) == (family == "vae_factor")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"label": Labels((10,), ("label",), CLASSES[::-1])}, "label of 10 classes, of other names"),
        ({"label": Labels((4,), ("label",))}, "this dataset has label of 4 classes"),
    ],
)
def test_other_labels_make_a_new_probe(config, made, tmp_path, capsys, labels, message):
    train_step = dataclasses.replace(made, probe=build.train_step(config, labels).probe)
    fresh = jax.device_get(start(config, train_step, None, labels))
    state = jax.device_get(start(config, train_step, find_origin(config, str(tmp_path), "scenes"), labels))
    tiny.assert_equal(state.probe, fresh.probe)
    tiny.assert_equal(state.params, tiny_checkpoint.random_variables(config, seed=7)["params"])
    said = capsys.readouterr().out
    assert "the online probe starts anew: these weights were taught label of 10 classes" in said and message in said


def test_no_probe_beside_the_weights(config, made, pretrained, tmp_path, capsys):
    tiny_exports.write(pretrained / "bare", config)
    state = start(config, made, find_origin(config, str(tmp_path), "bare"))
    assert state.probe is not None
    assert "the online probe starts anew: there is none beside these weights" in capsys.readouterr().out


def test_a_folder_of_a_run_gives_its_best_checkpoint(config, tmp_path):
    tiny_checkpoint.write(tmp_path / "run", config, 3, 6)
    assert find_origin(config, str(tmp_path / "new"), str(tmp_path / "run")).step == 6
    best.write(str(tmp_path / "run"), 3, "eval/loss", 0.5)
    found = find_origin(config, str(tmp_path / "new"), str(tmp_path / "run"))
    assert found.step == 3 and found.record["place"] == str(tmp_path / "run")
    tiny.assert_equal(found.variables, tiny_checkpoint.random_variables(config, seed=3))


def test_what_it_cannot_start_from(config, tmp_path):
    other = tiny.get_config(model__latent_dim=32, diffusion__num_timesteps=50)
    with pytest.raises(ConfigError) as error:
        find_origin(other, str(tmp_path), "scenes")
    lines = str(error.value).splitlines()
    assert lines[0] == "--init_from=scenes holds another model than this config describes (there -> here):"
    assert lines[1:3] == ["  config.diffusion.num_timesteps: 100 -> 50", "  config.model.latent_dim: 16 -> 32"]
    for place, message in (
        ("scene", "--init_from=scene: there is no folder 'scene' here"),
        (str(tmp_path / "absent"), "absent holds no checkpoint"),
        (" ", "--init_from=' ' is empty"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            find_origin(config, str(tmp_path), place)
    assert find_origin(config, str(tmp_path), "") is None


def test_the_run_says_where_it_came_from_and_goes_on_by_itself(tmp_path, monkeypatch, capsys, pretrained):
    mesh = sharding.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(loop.sharding, "make_mesh", lambda *_, **__: mesh)
    short = {"train__batch_size": 4, "train__eval_every": 100, "eval__num_examples": 8, "probe__kind": "none"}
    config = tiny.scenes_config(str(tmp_path / "geometry"), train__num_steps=1, **short)
    tiny_exports.write(pretrained / "rooms", config)
    seen = []
    jit_step = TrainStep.jit_step
    monkeypatch.setattr(
        TrainStep,
        "jit_step",
        lambda self, state, mesh: seen.append(jax.device_get(state)) or jit_step(self, state, mesh),
    )
    run = str(tmp_path / "run")
    train(config, run, init_from="rooms")
    tiny.assert_equal(seen[0].params, tiny_checkpoint.random_variables(config, seed=7)["params"])
    longer = config.copy_and_resolve_references()
    longer.train.num_steps = 2
    capsys.readouterr()
    train(longer, run, init_from="gone")  # nothing opens it again
    assert f"--init_from=gone is left out: {run} has a checkpoint of step 1, and goes on" in capsys.readouterr().out
    digest = json.loads((pretrained / "rooms" / "soda.json").read_text())["weights_digest"]
    record = {"place": "rooms", "step": 7, "weights_digest": digest}
    assert [session["init_from"] for session in read_sessions(run)] == [record, record]
    assert read_meta(run)[1]["init_from"] == record
    data = workdir.read(run)
    shown = facts.facts(data, recipes.flatten(data.config), "")
    assert ("Started from", "rooms at step 7", f"weights {digest[:12]}") in shown
    assert int(seen[1].step) == 1


def test_cards_do_not_tell_folders():
    for place, shown in (
        ("/home/somebody/runs/first", "first"),
        ("hf://org/name@v1", "hf://org/name@v1"),
        ("https://x.org/m.zip?key=secret#sha256=12", "https://x.org/m.zip"),
    ):
        record = {"place": place, "step": 1000, "weights_digest": "ab" * 32}
        assert facts._origin([{}, {"init_from": record}]) == [
            ("Started from", f"{shown} at step 1,000", "weights abababababab")
        ]
    assert facts._origin([{"init_from": "x"}, {"init_from": {"place": 3}}]) == []
