"""The evaluation within training: every example counts once, whatever the batch size and its padding."""

import dataclasses

import jax
import numpy as np
import pytest

from soda_jax import build, inputs
from soda_jax.data.datasets import Labels
from soda_jax.data.datasets.bad_files import DatasetGoneError
from soda_jax.parallel import sharding
from soda_jax.parallel.distributed import SharedError
from soda_jax.training.online import OnlineEvaluator, _Unbroken
from tests import tiny

COUNT = 21


class Images:
    """A source of random images with factors."""

    labels = {"factors": Labels(sizes=(4, 3), names=("hue", "shape"))}

    def __init__(self):
        rng = np.random.default_rng(5)
        self.images = rng.integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
        self.factors = np.stack([rng.integers(0, n, COUNT) for n in (4, 3)], 1).astype(np.int32)

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return {"image": self.images[index], "factors": self.factors[index]}


@pytest.fixture(scope="module")
def setup():
    config = tiny.get_config(
        probe__kind="factors", probe__raw_pixels=True, data__augment_source=False, data__augment_target=False
    )
    train_step = tiny.train_step(config)
    state = tiny.initial(train_step)
    # Only the averaged weights may be used.
    state = dataclasses.replace(state, params=jax.tree.map(lambda x: x * np.nan, state.params))
    return train_step, state, build.view_spec(config)


def evaluate(setup, batch_size, devices=1, limit=None):
    train_step, state, spec = setup
    mesh = sharding.make_mesh(jax.devices()[:devices])
    evaluator = OnlineEvaluator(train_step, Images(), spec, mesh, batch_size=batch_size, limit=limit)
    return evaluator.run(sharding.put_replicated(state, mesh))


def plain(found):
    """All but the use of the latent, which `test_latent_use.py` has: whose latent another's is depends on the batch."""
    return {name: value for name, value in found.items() if not name.startswith("latent_use/")}


@pytest.fixture(scope="module")
def one_by_one(setup):
    found = evaluate(setup, 1)
    assert found == plain(found), "of a single image there is no other's latent"
    return found


@pytest.mark.parametrize(("batch_size", "devices"), [(7, 1), (64, 1), (7, 8)])
def test_batch_size_padding_and_devices_do_not_matter(setup, one_by_one, batch_size, devices):
    found = plain(evaluate(setup, batch_size, devices))
    assert found.keys() == one_by_one.keys()
    assert set(found) == {"eval/loss"} | {
        f"{probe}/{name}" for probe in ("probe", "probe_pixels") for name in ("hue", "shape", "mean")
    }
    for name, value in one_by_one.items():
        assert found[name] == pytest.approx(value, abs=1e-5), name


def test_accuracies_are_those_of_the_probe(setup, one_by_one):
    """Counted by hand: the pixel probe's logits on the normalised pixels."""
    train_step, state, _ = setup
    dataset = Images()
    pixels = np.asarray(inputs.normalise_source(dataset.images)).reshape(COUNT, -1)
    variables = {"params": state.probe.params["pixels"], "batch_stats": state.probe.batch_stats["pixels"]}
    logits = train_step.probe.module.apply(variables, pixels)
    hits = np.stack([np.asarray(head).argmax(1) for head in logits], 1) == dataset.factors
    assert one_by_one["probe_pixels/hue"] == pytest.approx(hits[:, 0].mean())
    assert one_by_one["probe_pixels/shape"] == pytest.approx(hits[:, 1].mean())
    assert one_by_one["probe_pixels/mean"] == pytest.approx(hits.mean())


def test_limit_takes_that_many(setup):
    some = evaluate(setup, 7, limit=10)
    assert some["probe/hue"] * 10 == pytest.approx(round(some["probe/hue"] * 10))


class Objects:
    """A source of objects, each seen by three random cameras."""

    labels = {}

    def __init__(self):
        self.batch = tiny.posed_batch(COUNT, seed=5)

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        def view(name):
            parts = self.batch[f"source_{name}"][index], self.batch[f"target_{name}"][index][None]
            return np.concatenate(parts)

        images = np.concatenate([self.batch["source"][index], self.batch["target"][index][None]])
        keys = ("image", "pose", "intrinsics")
        return {
            "views": [
                dict(zip(keys, parts, strict=True))
                for parts in zip(images, view("pose"), view("intrinsics"), strict=True)
            ]
        }


@pytest.mark.slow
def test_cameras_and_random_sources_are_evaluated_too():
    """A model that takes them: the loss depends on the cameras, not on the batches."""
    config = tiny.posed_config(model__aggregation__name="stochastic", probe__kind="none")
    train_step = tiny.train_step(config)
    state, spec = tiny.initial(train_step), build.view_spec(config)

    def loss(dataset, batch_size, devices):
        mesh = sharding.make_mesh(jax.devices()[:devices])
        evaluator = OnlineEvaluator(train_step, dataset, spec, mesh, batch_size=batch_size, limit=None)
        return evaluator.run(sharding.put_replicated(state, mesh))["eval/loss"]

    dataset = Objects()
    found = loss(dataset, 7, 1)
    assert loss(dataset, 16, 8) == pytest.approx(found, abs=1e-5)
    dataset.batch["source_pose"] = np.roll(dataset.batch["source_pose"], 1, axis=0)
    assert abs(loss(dataset, 7, 1) - found) > 1e-4


def gone_after(count):
    for number in range(count):
        yield {"mask": np.array([True, False]), "number": number}
    raise DatasetGoneError("the folder is gone")


def test_held_out_data_that_vanish_end_one_process_at_once(setup):
    train_step, state, spec = setup
    images = Images()
    images.images = images.images[:9]
    evaluator = OnlineEvaluator(
        train_step, images, spec, sharding.make_mesh(jax.devices()[:1]), batch_size=7, limit=None
    )
    with pytest.raises(SharedError, match="out of bounds") as raised:
        evaluator.run(state)
    assert isinstance(raised.value.__cause__, IndexError)


def test_of_several_processes_none_waits_for_one_whose_data_vanish():
    """It gives padding for the batches that are left, and tells at the end."""
    batches = _Unbroken(gone_after(2), spare={"mask": np.array([True, True]), "number": 9})
    found = [next(batches) for _ in range(4)]
    assert [(batch["number"], batch["mask"].tolist()) for batch in found] == [
        (0, [True, False]), (1, [True, False]), (9, [False, False]), (9, [False, False]),
    ]  # fmt: skip
    with pytest.raises(SharedError, match="the folder is gone"):
        batches.check()
