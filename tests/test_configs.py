"""Every file of configs/, found by listing the folder: it loads, validates, builds its model and steps, abstractly.

Abstractly means by shapes alone (`jax.eval_shape`): no weight is allocated and nothing is compiled.
"""

import ast
import dataclasses
import importlib
import inspect
import pathlib
import re
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax.config import EVALUATORS, scored_split, validate
from soda_jax.data.builders import catalogue
from soda_jax.data.builders.base import SPLITS
from soda_jax.data.datasets import Labels
from soda_jax.data.datasets.parts import parse_split
from soda_jax.models import resnet
from soda_jax.models.families import FAMILIES
from soda_jax.objectives.step import TrainStep

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
BATCH = 2

# Table 10, typed from the paper: source noise, ResNet, batch, guidance scale.
LARGE, VIEWS, SMALL = (0.22, "resnet50", 4096, 2.0), (0.0, "resnet50", 2048, 2.0), (0.05, "resnet18", 1024, 3.0)
TABLE_10 = {
    "imagenet": (0.10, "resnet50x2", 4096, 2.0),
    "celeba_hq": (0.22, "resnet50x2", 4096, 2.0),
    "lsun": LARGE,
    "afhq": LARGE,
    "nmr": VIEWS,
    "shapenet": VIEWS,
    "gso": (0.0, "resnet50", 2048, 2.5),
    "smallnorb": SMALL,
    "shapes3d": SMALL,
    "mpi3d": SMALL,
    "cub": SMALL,
    "flowers102": SMALL,
}
# "Categories / attributes / views" of the same table, or of the set itself.
NUM_CLASSES = {
    "imagenet2012": (1000,),
    "celeba_hq": (2,) * 40,
    "afhq/v2": (3,),
    "oxford_flowers102": (102,),
    "smallnorb": (5, 18, 9, 6),
    "shapes3d": (10, 10, 10, 8, 4, 15),
    "mpi3d/toy": (6, 6, 2, 3, 3, 40, 40),
    "mpi3d/realistic": (6, 6, 2, 3, 3, 40, 40),
    "mpi3d/real": (6, 6, 2, 3, 3, 40, 40),
    "mpi3d/complex": (4, 4, 2, 3, 3, 40, 40),
    "cub": (2,) * 312,
    "cifar10": (10,),
    "cifar100": (100,),
    "tiny_imagenet": (200,),
}
TRUNK_MILLIONS = {"resnet50x2": 93.9, "resnet50": 23.5, "resnet18": 11.2}


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"soda_jax.configs.{name}")


def _arguments(name: str) -> tuple[str | None, ...]:
    """What may follow the colon of --config=configs/NAME.py:ARGUMENT; (None,) where nothing may."""
    module = _module(name)
    takes_one = bool(inspect.signature(module.get_config).parameters)
    assert takes_one == hasattr(module, "ARGUMENTS"), f"configs/{name}.py: list get_config's arguments in ARGUMENTS"
    return module.ARGUMENTS if takes_one else (None,)


def _load(name: str, argument: str | None = None) -> ConfigDict:
    """The config as a run has it: locked, and the folder given where the user must give one."""
    config = _module(name).get_config(*[argument][: argument is not None])
    if config.data.name in ("folder", "multiview"):
        config.data.root = "somewhere"
    return config.lock()


CASES = [pytest.param(n, a, id=f"{n}:{a}" if a else n) for n in NAMES for a in _arguments(n)]


def _labels(config: ConfigDict) -> dict[str, Labels]:
    """What the set carries, as far as it matters here: its own number of classes, or ten."""
    kind = config.probe.kind
    if kind == "none":
        return {}
    sizes = NUM_CLASSES.get(config.data.name, (10,))
    return {"label" if kind == "auto" else kind: Labels(sizes, tuple(f"target{i}" for i in range(len(sizes))))}


def _batch(config: ConfigDict, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a training batch, as soda_jax/data/__init__.py lists them."""
    data, n = config.data, config.data.num_sources

    def array(dtype, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *shape), dtype)

    batch = {
        "source": array(jnp.uint8, n, data.source_resolution, data.source_resolution, 3),
        "source_mask": array(bool, n),
        "target": array(jnp.uint8, data.resolution, data.resolution, 3),
        "id": array(jnp.int32),
    }
    for side, views in (("source", (n,)), ("target", ())):
        if data.view_policy == "camera":
            batch[f"{side}_pose"] = array(jnp.float32, *views, 4, 4)
            batch[f"{side}_intrinsics"] = array(jnp.float32, *views, 4)
        else:
            batch[f"{side}_window"] = array(jnp.float32, *views, 4)
    for kind, labels in _labels(config).items():
        batch[kind] = array(jnp.int32, *(() if kind == "label" else (len(labels.sizes),)))
    return batch


_TRACED: dict[str, tuple] = {}


def _step(train_step: TrainStep, batch: dict) -> tuple:
    """Shapes of the state before and after one step, and of its metrics; equal trainers are traced once."""
    key = repr((train_step.objective, train_step.probe, batch))
    if key not in _TRACED:
        state = jax.eval_shape(train_step.init, batch)
        _TRACED[key] = (state, *jax.eval_shape(train_step.step, state, batch))
    return _TRACED[key]


def _shapes(tree) -> list[tuple]:
    return [(jax.tree_util.keystr(path), x.shape, x.dtype) for path, x in jax.tree_util.tree_leaves_with_path(tree)]


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_it_can_run_on_one_device_and_on_eight(name, argument):
    config = _load(name, argument)
    assert config.is_locked
    for devices in (1, 8):
        validate(config, devices)


@pytest.mark.parametrize(("name", "argument"), [case for case in CASES if case.id != "common"])
def test_it_builds_its_model_and_steps(name, argument, monkeypatch):
    """Depth, optimizer and probe, which cost most of the time, in full for ImageNet only."""
    config = _load(name, argument).copy_and_resolve_references()
    config.train.grad_accum_steps = 1
    if name == "imagenet":
        train_step = build.train_step(config, _labels(config))
    else:
        monkeypatch.setattr(resnet, "STAGE_SIZES", {depth: (1, 1, 1, 1) for depth in resnet.STAGE_SIZES})
        config.model.denoiser.multipliers = config.model.denoiser.multipliers[:2]
        config.model.denoiser.num_res_blocks = 1
        config.probe.kind = "none"
        train_step = dataclasses.replace(build.train_step(config, {}), optimizer=optax.sgd(0.1))
    state, after, metrics = _step(train_step, _batch(config, BATCH))
    assert _shapes(after) == _shapes(state)
    assert metrics["loss"].shape == ()


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_its_probe_has_the_sets_classes(name, argument):
    config = _load(name, argument)
    probe = build.train_step(config, _labels(config)).probe
    if config.probe.kind == "none":
        assert probe is None
        return
    sizes = NUM_CLASSES.get(config.data.name, (10,))
    params = jax.eval_shape(probe.module.init, jax.random.key(0), jnp.zeros((1, config.model.latent_dim)))["params"]
    assert params["head"]["kernel"].shape == (config.model.latent_dim, sum(sizes))


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_its_evaluators_have_what_they_need(name, argument):
    config = _load(name, argument)
    wanted = set(config.eval.evaluators)
    assert wanted <= set(EVALUATORS)
    assert config.probe.kind != "none" or not any(EVALUATORS[name].reads == "features" for name in wanted)


@pytest.mark.parametrize("name", TABLE_10)
def test_it_has_its_row_of_table_10(name):
    noise, encoder, batch, guidance = TABLE_10[name]
    for argument in _arguments(name):
        config = _load(name, argument)
        assert config.data.source_noise == noise
        assert config.model.encoder.name == encoder
        assert config.train.batch_size == batch
        assert config.sampling.guidance_scale == guidance
        assert config.optim.learning_rate == pytest.approx({4096: 4e-4, 2048: 2e-4, 1024: 1e-4}[batch])
        assert config.model.latent_dim == (512 if encoder == "resnet18" else 2048)
        assert config.data.resolution == 128
        assert config.data.source_resolution == (224 if name == "imagenet" else 256)
        assert config.data.eval_crop == (0.875 if name == "imagenet" else 1.0)


@pytest.mark.parametrize("name", TABLE_10)
def test_its_views_are_the_papers(name):
    for argument in _arguments(name):
        config = _load(name, argument)
        augmented = name == "imagenet"
        assert (config.data.augment_source, config.data.augment_target) == (augmented, augmented)
        assert config.data.randaugment_rate == (0.65 if augmented else 0.0)
        policy = {"nmr": "camera", "shapenet": "camera", "gso": "camera", "imagenet": "augment"}.get(name, "same")
        assert config.data.view_policy == policy
        assert config.model.pose.grid == ("rays" if policy == "camera" else "none")


@pytest.mark.parametrize("encoder", TRUNK_MILLIONS)
def test_encoders_have_the_papers_size(encoder):
    config = _load({"resnet50x2": "imagenet", "resnet50": "afhq", "resnet18": "flowers102"}[encoder])
    shapes = jax.eval_shape(build.train_step(config, _labels(config)).init, _batch(config, 1)).params["encoder"]
    trunk = {part: shapes[part] for part in shapes if part != "projection"}
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(trunk))
    assert count / 1e6 == pytest.approx(TRUNK_MILLIONS[encoder], rel=0.005)


@pytest.mark.parametrize("name", [name for name in NAMES if _arguments(name) != (None,)])
def test_an_unknown_argument_is_answered_with_the_known_ones(name):
    with pytest.raises(ValueError, match=f"has no argument 'nothing'; use one of {', '.join(_arguments(name))}$"):
        _load(name, "nothing")


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_its_splits_are_of_a_dataset_that_can_be_prepared(name, argument):
    config = _load(name, argument)
    if config.data.name in ("scenes", "scenes_free", "scenes_handheld", "folder", "multiview"):
        return
    dataset = catalogue.DATASETS[config.data.name]
    splits = dataset.counts or SPLITS  # the archive of nmr has lists of its own
    splits = SPLITS if tuple(splits) == ("train",) else splits  # a single split is read as 80/10/10
    for split in (config.data.train_split, config.data.eval_split, scored_split(config)):
        assert parse_split(split)[0] in splits
    if argument in (None, _arguments(name)[0]) and name != "common":
        command = f"python -m soda_jax.tools.prepare_data --dataset={config.data.name} "
        assert command in _module(name).__doc__
        assert ("--manual_dir" in _module(name).__doc__) == bool(dataset.files)


# `common` is no run. These show the curves of the test split, and choose nothing by them: the figures of all three were
# published so, of the whole training split.
UNWATCHED = ("common", "quickstart", "cifar10", "cifar10:full", "cifar10:small")


@pytest.mark.parametrize(("name", "argument"), [case for case in CASES if case.id not in UNWATCHED])
def test_it_chooses_by_no_image_that_it_is_scored_on(name, argument):
    config = _load(name, argument)
    watched = config.data.eval_split
    assert config.train.monitor in ("eval/loss", "probe/mean")
    assert config.train.patience == 0 or config.train.patience >= max(10_000, 10 * config.train.eval_every)
    assert (config.train.patience > 0) == (config.optim.schedule == "constant")
    if watched == "validation":
        assert config.data.train_split == "train"
        assert scored_split(config) == ("validation" if name == "folder" else "test")
    else:
        (split, kept), (of, held_out) = map(parse_split, (config.data.train_split, watched))
        assert split == of == "train" and kept[0] == 0 and kept[1] == held_out[0] >= 90 and held_out[1] == 100
        assert scored_split(config) in ("test", "validation")


@pytest.mark.parametrize("case", UNWATCHED[1:])
def test_what_watches_nothing_ends_at_its_last_step(case):
    config = _load(*case.split(":"))
    assert (config.train.monitor, config.train.patience, config.data.test_split) == ("", 0, "")
    assert (config.data.train_split, config.data.eval_split) == ("train", "test")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "common"])
def test_its_docstring_says_how_to_run_it_and_what_came_of_it(name):
    text = " ".join(_module(name).__doc__.split())
    assert f"python -m soda_jax.main --config=configs/{name}.py" in text
    assert "Not run here." in text or re.search(r"\d (s|minutes|hours)\b.* \.?\d", text), "give a measured figure"


@pytest.mark.parametrize("name", NAMES)
def test_flags_in_its_docstring_exist_and_fit_together(name):
    config = _load(name, _arguments(name)[0]).copy_and_resolve_references()
    for field, value in re.findall(r"--config\.([\w.]+?)=([^\s;]+)", _module(name).__doc__):
        section, _, last = field.rpartition(".")
        node = config
        for part in section.split("."):
            node = node[part]
        value = value.rstrip(".,").strip('"')
        node[last] = value if isinstance(node[last], str) else ast.literal_eval(value)
    validate(config, 8)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "frozen"])  # which needs an encoder's path
def test_the_familys_name_is_all_it_takes(family):
    """Every config that asks for no cameras trains every family."""
    for case in CASES:
        config = _load(*case.values).copy_and_resolve_references()
        if config.data.view_policy != "camera":
            config.model.family = family
            validate(config)


def test_a_family_without_a_latent_watches_the_loss_where_others_watch_the_probe():
    config = _load("cifar10", "validated").copy_and_resolve_references()
    assert build.monitor(config) == "probe/mean"
    config.model.family = "palette"
    assert build.monitor(config) == "eval/loss"
    config.train.monitor = ""
    assert build.monitor(config) == ""
