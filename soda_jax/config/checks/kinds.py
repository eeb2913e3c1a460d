"""The kind of every field of configs/common.py, and a check that its value is of that kind and of a possible size.

ConfigDict checks a field's type on assignment, but not the items of a tuple, nor configs that come from a checkpoint.
"""

import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from soda_jax.config.checks.rules import problem, value

_OF_DEFAULTS = {bool: "flag", int: "whole", float: "number", str: "text", type(None): "number or None"}


def _kinds() -> dict[str, str]:
    """{field: kind} by the defaults of configs/common.py; {} where the package stands without its configs."""
    try:
        from soda_jax.configs import common
    except ModuleNotFoundError:
        return {}

    def walk(node: ConfigDict, prefix: str) -> Iterator[tuple[str, str]]:
        for name, default in node.items():
            if isinstance(default, ConfigDict):
                yield from walk(default, f"{prefix}{name}.")
            elif isinstance(default, tuple):
                yield f"{prefix}{name}", _OF_DEFAULTS[type(default[0])] + "s"
            else:
                yield f"{prefix}{name}", _OF_DEFAULTS[type(default)]

    return dict(walk(common.get_config(), ""))


KINDS = _kinds()
_DESCRIBED = {
    "flag": "must be True or False",
    "whole": "must be a whole number",
    "number": "must be a finite number",
    "number or None": "must be a finite number, or None",
    "text": "must be text that can be printed",
    "wholes": "must hold nothing but whole numbers",
    "numbers": "must hold nothing but finite numbers",
    "texts": "must hold nothing but names",
}
# Counts of steps and examples, and the seed, fit the device's integers; sizes of a network beyond theirs are slips,
# and would fill the memory, or the time, before anything says so.
_LARGEST, _FLOAT = 2**31 - 1, 3e38
_SIZES = {"model.": 2**16, "data.": 2**14}
_SIZE_OF = {
    "seed": 2**63 - 1,
    "model.latent_dim": 2**20,
    "model.denoiser.num_res_blocks": 256,
    "model.denoiser.multipliers": 1024,
    "model.aggregation.depth": 1024,
    "model.vae.annealed_steps": _LARGEST,
    "model.aggregation.mlp_multiplier": 1024,
    "diffusion.num_timesteps": 10**6,
}


def problems(config: ConfigDict) -> Iterator[str]:
    """A line for every field that is missing, of another kind, or beyond any size that could run.

    Negative numbers are left to `negatives`: where a field's own range is known, that says more.
    """
    for field, kind in KINDS.items():
        if not _is_there(config, field):
            yield f"config.{field} is missing: start from configs/common.py, or a config that does"
            continue
        found = value(config, field)
        if not _is_of(kind, found):
            yield problem(config, field, _DESCRIBED[kind])
        elif kind in ("whole", "wholes"):
            most = _most(field)
            items = found if kind == "wholes" else (found,)
            if any(item > most for item in items):
                yield problem(config, field, f"must be at most {most}")
            elif kind == "wholes" and any(item < 0 for item in items):
                yield problem(config, field, "must hold no negative numbers")


def negatives(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """(field, line) of each whole number below 0; there is no field that takes one."""
    for field, kind in KINDS.items():
        if kind == "whole" and value(config, field) < 0:
            yield field, problem(config, field, "must be at least 0")


def _is_there(config: ConfigDict, field: str) -> bool:
    node: Any = config
    for part in field.split("."):
        if not isinstance(node, (ConfigDict, dict)) or part not in node:
            return False
        node = node[part]
    return True


def _is_of(kind: str, found: Any) -> bool:
    if kind in ("wholes", "numbers", "texts"):
        return isinstance(found, (tuple, list)) and all(_is_of(kind.removesuffix("s"), item) for item in found)
    if kind == "flag":
        return isinstance(found, bool)
    if kind == "text":
        return isinstance(found, str) and "\0" not in found and not any("\ud800" <= char <= "\udfff" for char in found)
    if kind == "number or None" and found is None:
        return True
    if isinstance(found, bool) or not isinstance(found, int if kind == "whole" else (int, float)):
        return False
    return kind == "whole" or (math.isfinite(found) if isinstance(found, float) else True) and abs(found) < _FLOAT


def _most(field: str) -> int:
    prefix = next((prefix for prefix in _SIZES if field.startswith(prefix)), "")
    return _SIZE_OF.get(field, _SIZES.get(prefix, _LARGEST))
