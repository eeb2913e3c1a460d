"""Checkpoints: layout, what is kept, other device counts, damage, and what a kill leaves behind."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from soda_jax.config import STATE_FIELDS
from soda_jax.objectives.state import TrainState
from soda_jax.parallel import sharding
from soda_jax.workdir import checkpoint as checkpoint_lib
from soda_jax.workdir import checksums
from soda_jax.workdir.checkpoint import (
    Checkpointer,
    CheckpointWriteError,
    DamagedCheckpointError,
    latest_step,
    load_ema,
    read_meta,
)
from soda_jax.workdir.meta import check_same_labels, check_same_model
from tests import tiny

META = {"config": tiny.get_config().to_dict(), "targets": {"label": [10]}, "data_position": 5}


def make_state(step=5, seed=0):
    rng = np.random.default_rng(seed)
    params = {"encoder": {"w": rng.standard_normal((16, 3))}, "denoiser": {"b": rng.standard_normal(4)}}
    params = jax.tree.map(np.float32, params)
    return TrainState(
        step=np.int32(step),
        params=params,
        batch_stats={"encoder": {"mean": np.float32(rng.standard_normal(3))}},
        opt_state=(jax.tree.map(np.square, params), ()),
        ema_params=jax.tree.map(lambda x: x + 1, params),
        ema_batch_stats={"encoder": {"mean": np.float32(rng.standard_normal(3))}},
        probe=None,
    )


def abstract(state, mesh):
    place = sharding.replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=place), state)


def steps(workdir):
    return sorted(child.name for child in (workdir / "checkpoints").iterdir())


def save(workdir, *numbers, keep_every=1000):
    mesh = sharding.make_mesh(jax.devices()[:1])
    with Checkpointer(str(workdir), keep_every) as checkpointer:
        for number in numbers:
            checkpointer.save(sharding.put_replicated(make_state(number), mesh), META | {"data_position": number})


def test_eight_devices_to_two(tmp_path):
    state = make_state()
    with Checkpointer(str(tmp_path), 1000) as checkpointer:
        checkpointer.save(sharding.put_replicated(state, sharding.make_mesh()), META)
    two = sharding.make_mesh(jax.devices()[:2])
    with Checkpointer(str(tmp_path), 1000) as checkpointer:
        restored = checkpointer.restore(abstract(state, two), 5)
    assert {leaf.sharding.mesh.size for leaf in jax.tree.leaves(restored)} == {2}
    tiny.assert_equal(jax.device_get(restored), state)


def test_a_step_that_follows_at_once_does_not_spoil_the_save(tmp_path):
    """The save is asynchronous and the next step overwrites the donated state."""
    mesh = sharding.make_mesh()
    big = dataclasses.replace(make_state(), params={"w": np.arange(2_000_000, dtype=np.float32)})
    spoil = jax.jit(lambda state: jax.tree.map(jnp.zeros_like, state), donate_argnums=0)
    with Checkpointer(str(tmp_path), 1000) as checkpointer:
        state = sharding.put_replicated(big, mesh)
        checkpointer.save(state, META)
        jax.block_until_ready(spoil(state))
    with Checkpointer(str(tmp_path), 1000) as checkpointer:
        tiny.assert_equal(jax.device_get(checkpointer.restore(abstract(big, mesh), 5)), big)


def test_the_last_two_and_every_nth_are_kept(tmp_path):
    save(tmp_path, 4, 8, 10, 12, 20, 22, 24, keep_every=10)
    assert steps(tmp_path) == ["10", "20", "22", "24"]
    assert latest_step(str(tmp_path)) == 24


def test_a_chosen_one_is_kept_beside_them_until_another_is_whole(tmp_path):
    mesh = sharding.make_mesh(jax.devices()[:1])

    def go_on(*numbers, chosen):
        with Checkpointer(str(tmp_path), 1000) as checkpointer:
            for number in numbers:
                checkpointer.keep(chosen.get(number, chosen["start"]))
                at_write = []
                state = sharding.put_replicated(make_state(number), mesh)
                checkpointer.save(state, META, lambda: at_write.extend(steps(tmp_path)))  # noqa: B023
                checkpointer.wait()
                yield [name for name in at_write if name.isdigit()], steps(tmp_path)

    assert [after for _, after in go_on(2, 4, 6, 8, chosen={"start": 2})][-1] == ["2", "6", "8"]
    # As another run of the program, which first saves, then chooses what it saves.
    during, after = zip(*go_on(10, 12, 14, 16, chosen={"start": 2, 12: 12, 14: 12, 16: 12}), strict=True)
    assert after == (["10", "2", "8"], ["10", "12"], ["12", "14"], ["12", "14", "16"])
    assert "2" in during[1], "the old one goes only when the new one is whole"


def test_what_a_kill_leaves_behind_is_ignored(tmp_path):
    save(tmp_path, 5)
    (tmp_path / "checkpoints" / "10.orbax-checkpoint-tmp" / "ema").mkdir(parents=True)
    (tmp_path / "checkpoints" / "10.orbax-checkpoint-tmp-2").mkdir()
    (tmp_path / "checkpoints" / "1.0.unfinished").mkdir()  # of a start that could not remove all of it
    (tmp_path / "checkpoints" / "15").mkdir()  # orbax alone would take this for the newest, and save nothing below 15
    assert latest_step(str(tmp_path)) == 5
    with Checkpointer(str(tmp_path), 1000):
        assert steps(tmp_path) == ["15.damaged", "5"]  # at once: a run may end here
    save(tmp_path, 10)
    assert latest_step(str(tmp_path)) == 10
    assert steps(tmp_path) == ["10", "15.damaged", "5"]
    assert read_meta(str(tmp_path))[1]["data_position"] == 10


def test_meta_holds_config_targets_and_position(tmp_path):
    save(tmp_path, 5)
    step, meta = read_meta(str(tmp_path))
    assert step == 5
    assert meta["config"] == json.loads(json.dumps(META["config"]))
    assert meta["targets"] == {"label": [10]} and meta["data_position"] == 5
    assert meta["format_version"] == 2 and meta["soda_jax"] and meta["jax"] == jax.__version__
    assert {"python", "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy"} <= meta["versions"].keys()


def test_averaged_weights_alone(tmp_path):
    save(tmp_path, 5)
    state, mesh = make_state(), sharding.make_mesh(jax.devices()[:2])
    variables = load_ema(str(tmp_path), 5, abstract(state.ema_variables, mesh))
    tiny.assert_equal(jax.device_get(variables), state.ema_variables)


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint: train first with python -m soda_jax.main"):
        read_meta(str(tmp_path))
    save(tmp_path, 5)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint of step 6"):
        read_meta(str(tmp_path), 6)


def test_a_newer_format_is_refused(tmp_path):
    save(tmp_path, 5)
    path = tmp_path / "checkpoints" / "5" / "meta" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    checksums.write(tmp_path / "checkpoints" / "5", checkpoint_lib.ITEMS, "5")
    for read in (read_meta, lambda workdir: Checkpointer(workdir, 1000)):
        with pytest.raises(ValueError, match="format 99.*install soda_jax"):
            read(str(tmp_path))
    assert steps(tmp_path) == ["5"]


def flip(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_a_damaged_checkpoint_is_named_set_aside_and_the_one_before_used(tmp_path, capsys):
    save(tmp_path, 5, 10)
    file = largest(tmp_path / "checkpoints" / "10" / "train" / "ocdbt.process_0" / "d")
    flip(file)
    with Checkpointer(str(tmp_path), 1000) as checkpointer:
        assert checkpointer.step == 5 and checkpointer.meta["data_position"] == 5
        restored = checkpointer.restore(abstract(make_state(5), sharding.make_mesh(jax.devices()[:1])), 5)
        tiny.assert_equal(jax.device_get(restored), make_state(5))
    said = capsys.readouterr().out
    assert f"checkpoint 10 is damaged (train/ocdbt.process_0/d/{file.name} was changed after it was written)" in said
    assert f"set aside as {tmp_path / 'checkpoints' / '10.damaged'}; using 5 instead" in said
    assert steps(tmp_path) == ["10.damaged", "5"]
    save(tmp_path, 10)  # as the resumed run does
    flip(largest(tmp_path / "checkpoints" / "10"))
    save(tmp_path, 11)
    assert steps(tmp_path) == ["10.damaged", "10.damaged.2", "11", "5"]


def test_all_damaged_is_an_error_and_nothing_is_touched(tmp_path):
    save(tmp_path, 5, 10)
    (tmp_path / "checkpoints" / "5" / "meta" / "metadata").unlink()
    (tmp_path / "checkpoints" / "10" / checksums.FILE).write_text("")
    with pytest.raises(DamagedCheckpointError) as error:
        Checkpointer(str(tmp_path), 1000)
    message = str(error.value)
    assert "\n  5: meta/metadata is missing" in message and f"\n  10: {checksums.FILE} cannot be read" in message
    assert "start anew" in message
    assert steps(tmp_path) == ["10", "5"]


def test_readers_skip_a_damaged_checkpoint_and_rename_nothing(tmp_path, monkeypatch):
    save(tmp_path, 5, 10, 15)
    warnings = []
    monkeypatch.setattr(checkpoint_lib.logging, "warning", lambda text, *values: warnings.append(text % values))
    flip(largest(tmp_path / "checkpoints" / "15" / "train"))
    assert read_meta(str(tmp_path))[0] == 15 and not warnings  # they have no use for that part
    flip(largest(tmp_path / "checkpoints" / "15" / "ema"))
    step, meta = read_meta(str(tmp_path))
    assert (step, meta["data_position"]) == (10, 10)
    assert len(warnings) == 1 and "checkpoint 15" in warnings[0] and "using 10 instead" in warnings[0]
    with pytest.raises(DamagedCheckpointError, match="checkpoints/15 is damaged: ema/.* was changed"):
        read_meta(str(tmp_path), 15)
    assert steps(tmp_path) == ["10", "15"]


def test_a_checkpoint_under_another_number(tmp_path):
    save(tmp_path, 5)
    path = tmp_path / "checkpoints" / "5"
    path.rename(path.with_name("50"))
    with pytest.raises(DamagedCheckpointError, match="50: it was written as 5"):
        read_meta(str(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, '{"format_version": "1"}', '{"format_version": 1}'])
def test_a_meta_that_is_none(tmp_path, text):
    """Without checksums, as the first format; with them the bytes alone would tell."""
    folder = tmp_path / "checkpoints" / "5" / "meta"
    folder.mkdir(parents=True)
    (folder / "metadata").write_text(text)
    with pytest.raises(DamagedCheckpointError, match="5: meta/metadata "):
        read_meta(str(tmp_path))


def test_a_checkpoint_gets_its_name_with_its_checksums(tmp_path, monkeypatch):
    """Killed at any moment before, nothing but a temporary folder is left."""
    seen = []

    def write(folder, parts, name):
        seen.append((folder.name, sorted(child.name for child in folder.parent.iterdir())))
        checksums_write(folder, parts, name)

    checksums_write = checksums.write
    monkeypatch.setattr(checksums, "write", write)
    save(tmp_path, 5, 10)
    assert seen == [
        ("5.orbax-checkpoint-tmp", ["5.orbax-checkpoint-tmp"]),
        ("10.orbax-checkpoint-tmp", ["10.orbax-checkpoint-tmp", "5"]),
    ]
    assert all((tmp_path / "checkpoints" / name / checksums.FILE).is_file() for name in ("5", "10"))


def test_a_failed_write_names_the_last_whole_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 5)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checksums, "write", full)
    with pytest.raises(CheckpointWriteError) as error:
        save(tmp_path, 10)
    message = str(error.value)
    assert "checkpoint of step 10 could not be written" in message and "(No space left on device)" in message
    assert "the last whole one is of step 5" in message and "run the same command again" in message
    monkeypatch.undo()
    assert latest_step(str(tmp_path)) == 5
    save(tmp_path, 10)
    assert steps(tmp_path) == ["10", "5"]


def test_another_model_is_named_by_its_fields(tmp_path):
    check_same_model("run", META, tiny.get_config(optim__learning_rate=0.5), STATE_FIELDS)
    other = tiny.get_config(model__latent_dim=32, model__denoiser__channels=16, data__resolution=16)
    with pytest.raises(ValueError) as error:
        check_same_model("run", META, other)
    message = str(error.value)
    assert "config.model.latent_dim: 16 -> 32" in message
    assert "config.model.denoiser.channels: 8 -> 16" in message
    assert "config.data.resolution: 8 -> 16" in message
    assert message.count("\n  config.") == 3 and "another --workdir" in message
    with_pixels = tiny.get_config(probe__raw_pixels=True)
    check_same_model("run", META, with_pixels)  # the model is the same, but not the training state
    with pytest.raises(ValueError, match="config.probe.raw_pixels: False -> True"):
        check_same_model("run", META, with_pixels, STATE_FIELDS)


def test_other_targets_are_named():
    check_same_labels("run", META, "label", (10,))
    check_same_labels("run", META, "factors", (3, 4))  # the probe did not read them
    with pytest.raises(ValueError, match="labels of kind 'label' have 10 classes, and now they have 11"):
        check_same_labels("run", META, "label", (11,))


def test_saving_leaves_the_count_of_questions_alone(tmp_path, monkeypatch):
    """JAX finds the step at which all processes stop by counting; orbax's own questions would mislead it."""
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    save(tmp_path, 5, 10)
    assert steps(tmp_path) == ["10", "5"] and not asked


# `*` and `?` match, too, what another run wrote beside; the others lead nowhere.
@pytest.mark.parametrize(
    "name", ["run[1]", "[lr=0.1]", "r*n", "r?n", "back\\slash", "a]b", "gs:", "{a,b}", "sp ace", "ü"]
)
def test_folders_of_any_name(tmp_path, name):
    save(tmp_path / "run", 5)
    folder, moved, state = tmp_path / name, tmp_path / "moved" / name, make_state(15)
    with Checkpointer(str(folder), 1000) as checkpointer:
        checkpointer.save(sharding.put_replicated(state, sharding.make_mesh()), META)
        checkpointer.verify()
    with Checkpointer(str(folder), 1000) as checkpointer:
        assert checkpointer.step == 15
        restored = checkpointer.restore(abstract(state, sharding.make_mesh()), 15)
    tiny.assert_equal(jax.device_get(restored), state)
    shutil.copytree(folder, moved)
    mesh = sharding.make_mesh(jax.devices()[:1])
    variables = abstract({"params": state.ema_params, "batch_stats": state.ema_batch_stats}, mesh)
    for place in (folder, moved):
        tiny.assert_equal(jax.device_get(load_ema(str(place), 15, variables))["params"], state.ema_params)
        assert read_meta(str(place))[0] == 15
    assert steps(folder) == ["15"] and steps(tmp_path / "run") == ["5"]


def test_what_was_written_is_read_back(tmp_path):
    mesh = sharding.make_mesh(jax.devices()[:1])
    with Checkpointer(str(tmp_path), 1000) as checkpointer:
        checkpointer.verify()  # nothing was written yet
        checkpointer.save(sharding.put_replicated(make_state(5), mesh), META)
        checkpointer.verify()
        checkpointer.save(sharding.put_replicated(make_state(10), mesh), META)
        checkpointer.wait()
        (tmp_path / "checkpoints" / "10" / "train" / "manifest.ocdbt").unlink()
        with pytest.raises(CheckpointWriteError, match="of step 10 was written .* read back .train.*move it away"):
            checkpointer.verify()


def test_an_item_of_other_arrays_is_not_what_was_written(tmp_path):
    mesh = sharding.make_mesh(jax.devices()[:1])
    with Checkpointer(str(tmp_path), 1000) as checkpointer:
        checkpointer.save(sharding.put_replicated(make_state(5), mesh), META)
        checkpointer.wait()
        folder = tmp_path / "checkpoints" / "5"
        shutil.rmtree(folder / "train")
        shutil.copytree(folder / "ema", folder / "train")
        with pytest.raises(CheckpointWriteError, match="train holds 3 arrays of 6"):
            checkpointer.verify()


def test_reading_back_reads_little(tmp_path):
    """A large array is no reason to wait."""
    state = dataclasses.replace(make_state(), params={"w": np.zeros(2**22, np.float32)})
    with Checkpointer(str(tmp_path), 1000) as checkpointer:
        checkpointer.save(sharding.put_replicated(state, sharding.make_mesh(jax.devices()[:1])), META)
        checkpointer.wait()
        part = checkpoint_lib._read_item(tmp_path / "checkpoints" / "5" / "train", whole=False)
    assert part["params"]["w"] is ... and sum(leaf is not ... for leaf in jax.tree.leaves(part)) == 1


def test_parts_that_were_never_put_together(tmp_path):
    """Releases up to this one wrote such checkpoints, sound by their checksums, into folders as `run[1]`."""
    save(tmp_path, 5, 10)
    folder = tmp_path / "checkpoints" / "10"
    for item in ("ema", "train"):
        (folder / item / "manifest.ocdbt").unlink()
        shutil.rmtree(folder / item / "d")
    (folder / checksums.FILE).unlink()
    checksums.write(folder, checkpoint_lib.ITEMS, "10")
    assert checkpoint_lib.damage(str(tmp_path), 10).startswith("ema cannot be read")
    with Checkpointer(str(tmp_path), 1000) as checkpointer:
        assert checkpointer.step == 5
