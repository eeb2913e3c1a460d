"""The commands that train a config again, and measure the model that came of it: our nearest config, and the fields
in which it differs."""

import shlex
from collections.abc import Mapping
from typing import Any

from soda_jax.cli import config_values
from soda_jax.config.reading import PATH_FIELDS
from soda_jax.data.datasets import PREPARED, entry_of
from soda_jax.models.families import FAMILIES
from soda_jax.reporting import recipes

_MEASURING, _TRAINING = ("eval.", "sampling."), ("train.", "optim.")
_EVALUATED_IN_TRAINING = ("eval.num_examples", "eval.batch_size")


def training(config: dict[str, Any], started_from_a_model: bool = False) -> str:
    """Trains `config`; "" where there are no configs of ours beside the package to start from.

    Folders and models of the user's are DIR and PLACE in it.

    Args:
      started_from_a_model: the run had --init_from.
    """
    found = _nearest(_flat(config))
    if found is None:
        return ""
    value, differing = found
    left_out = [name for name in differing if name.startswith(_MEASURING) and name not in _EVALUATED_IN_TRAINING]
    flags = _places(config) + (["--init_from=PLACE"] if started_from_a_model else [])
    return _command(value, ["--workdir=RUN", *flags], differing, left_out)


def evaluation(config: dict[str, Any], settings: Mapping[str, Any] | None = None) -> str:
    """Measures an export of `config`; "" as for `training`.

    Args:
      settings: sections of the config as they were when it was measured; those of `config` by default.
    """
    measured = config | {section: config[section] | values for section, values in (settings or {}).items()}
    found = _nearest(_flat(measured))
    if found is None:
        return ""
    value, differing = found
    flags = _places(config)
    if "fid" in measured["eval"]["image_metrics"]:
        flags.append("--config.eval.inception_weights=FILE")
    left_out = [name for name in differing if name.startswith(_TRAINING)]
    return _command(value, ["--mode=evaluate", "--model=FOLDER", "--workdir=OUT", *flags], differing, left_out)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in recipes.flatten(config).items() if name not in PATH_FIELDS}


def _nearest(flat: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """(--config, the fields that `flat` has otherwise), with the fewest of these; of the same dataset if any is."""
    candidates = []
    for value in config_values():
        name, _, argument = value.partition(":")
        ours = recipes.load(name, argument or None) or {}
        differing = {field: chosen for field, chosen in flat.items() if field in ours and ours[field] != chosen}
        candidates.append((value, differing))
    if not candidates:
        return None
    return min(candidates, key=lambda found: ("data.name" in found[1], len(found[1])))


def _places(config: dict[str, Any]) -> list[str]:
    """Flags for what lies on the user's machine."""
    entry = entry_of(config["data"]["name"])
    flags = ["--config.data.root=DIR"] if entry.needs_root or entry is PREPARED else []
    needs_encoder = FAMILIES[config["model"]["family"]].takes_an_encoder
    return flags + (["--config.model.frozen.path=PLACE"] if needs_encoder else [])


def _command(value: str, flags: list[str], differing: dict[str, Any], left_out: list[str]) -> str:
    fields = [_quoted(f"--config.{name}={chosen}") for name, chosen in differing.items() if name not in left_out]
    return " ".join(["python", "-m", "soda_jax.main", f"--config={value}", *flags, *fields])


def _quoted(flag: str) -> str:
    """The flag for a shell: one that has single quotes stands in double ones, as a person writes it."""
    if "'" in flag and not set('"$`\\!') & set(flag):
        return f'"{flag}"'
    return shlex.quote(flag)
