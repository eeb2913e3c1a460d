"""Every field of every kind: what is none of its kind, or of no size that could run, is named with the field."""

import json

import jax
import numpy as np
import pytest

from soda_jax import config as config_lib
from soda_jax.config import ConfigError, validate
from soda_jax.config.checks.kinds import KINDS
from soda_jax.configs import common
from soda_jax.reporting.recipes import flatten
from tests import tiny

NAN, INF = float("nan"), float("inf")
NO_NUMBER = ("1", None, NAN, INF, -INF, (1,), 1e39, 10**40, 1j)
BAD = {
    "flag": (0, 1, "True", None, 0.5),
    "whole": (*NO_NUMBER, True, 1.0, 0.5, -1, -(10**12), 2**31, 10**30),
    "number": NO_NUMBER,
    "number or None": tuple(item for item in NO_NUMBER if item is not None),
    "text": (1, None, True, ("a",), b"a", "a\0b", "a\udcffb"),
    "wholes": (1, None, "12", (1.0, 2), (1, 2.5), ("1",), (True,), (None,), (NAN,), (1, -1), (10**12,), ((1,),)),
    "numbers": (0.5, None, "12", ("1",), (True,), (0.5, NAN), (INF,), (None,), (1e300,), ((0.5,),)),
    "texts": ("knn", None, 1, (1,), (None,), ("a\0b",), (("knn",),)),
}


def of(field, value):
    """A config with a value that ConfigDict itself may refuse, as a checkpoint's may hold it."""
    config = tiny.get_config(data__name="scenes")
    *path, name = field.split(".")
    with config.unlocked(), config.ignore_type():
        node = config
        for part in path:
            node = node[part]
        node[name] = value
    return config


def test_the_kinds_are_those_of_the_defaults():
    assert KINDS.keys() == flatten(common.get_config()).keys()
    examples = {
        "seed": "whole", "model.bottleneck": "flag", "optim.learning_rate": "number", "data.name": "text",
        "sampling.turntable_altitude": "number or None", "model.denoiser.multipliers": "wholes",
        "data.crop_scale": "numbers", "eval.evaluators": "texts", "sampling.section_ranges": "texts",
    }  # fmt: skip
    assert {field: KINDS[field] for field in examples} == examples
    for field, default in flatten(common.get_config()).items():
        if isinstance(default, tuple):
            assert len({type(item) for item in default}) <= 1, f"{field}: the first item stands for all"


@pytest.mark.parametrize("field", KINDS)
def test_what_is_of_no_such_kind_is_named(field):
    for value in BAD[KINDS[field]]:
        if (field, value) == ("seed", 2**31):  # a seed is no size
            continue
        with pytest.raises(ConfigError) as raised:
            validate(of(field, value))
        lines = str(raised.value).splitlines()[1:]
        assert sum(line.startswith(f"  config.{field}=") for line in lines) == 1, (value, lines)


@pytest.mark.parametrize("field", [field for field, kind in KINDS.items() if kind in ("whole", "wholes")])
def test_sizes_at_the_ends_pass_or_are_named(field):
    """No check of the others fails on them, nor takes long."""
    for size in (0, 1, 2, 3, 255, 256, 1024, 2**14, 2**16, 2**20, 2**31 - 1):
        try:
            validate(of(field, (size, 1, size) if KINDS[field] == "wholes" else size))
        except ConfigError as error:
            assert "\n  config." in str(error)


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("model.denoiser.multipliers", (1.0, 1.0, 2.0), "must hold nothing but whole numbers"),
        ("model.denoiser.multipliers", (1, 0, 2), "must be at least 1 at every level"),
        ("model.denoiser.multipliers", (1,) * 40, "at most 16"),
        ("model.denoiser.attention_resolutions", (8, 0), "each at least 1"),
        ("seed", -1, "must be at least 0"),
        ("model.aggregation.mlp_multiplier", 0, "must be at least 1"),
        ("probe.init_scale", -0.1, "must be at least 0"),
        ("optim.eps", -1e-8, "between 0 and 1"),
        ("model.encoder.name", "resnet50x999999", "use resnet"),
        ("model.encoder.name", "resnet5\u00b2", "use resnet"),
    ],
)
def test_some_by_their_words(field, value, remedy):
    with pytest.raises(ConfigError) as raised:
        validate(of(field, value))
    assert any(line.startswith(f"  config.{field}=") and remedy in line for line in str(raised.value).splitlines())


def test_missing_fields_are_named():
    for field in ("seed", "train.ema_decay", "model.denoiser.multipliers"):
        config = tiny.get_config(data__name="scenes")
        with config.unlocked():
            node = config
            *path, name = field.split(".")
            for part in path:
                node = node[part]
            del node[name]
        with pytest.raises(ConfigError, match=f"config.{field} is missing: start from configs/common.py"):
            validate(config)
    with config.unlocked():
        del config.eval
    with pytest.raises(ConfigError, match="config.eval.batch_size is missing"):
        validate(config)


def test_truth_is_no_number():
    """On assignment ConfigDict makes a float of it; a file's stays."""
    tree = json.loads(config_lib.to_json(tiny.get_config(data__name="scenes")))
    tree["optim"]["eps"] = True
    with pytest.raises(ConfigError, match="config.optim.eps=True: must be a finite number"):
        validate(config_lib.from_dict(tree))


def test_whole_numbers_pass_for_others_and_lists_for_tuples():
    tree = json.loads(config_lib.to_json(tiny.get_config(data__name="scenes")))
    tree["optim"]["learning_rate"], tree["sampling"]["guidance_scale"] = 0, -2
    validate(config_lib.from_dict(tree))
    validate(of("model.denoiser.multipliers", [1]))
    validate(of("seed", 2**31 - 1))


def test_the_largest_seed_is_one_for_all():
    np.random.default_rng(2**31 - 1)
    jax.random.key(2**31 - 1)
