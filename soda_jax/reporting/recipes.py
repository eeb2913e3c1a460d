"""The configs beside the package: the defaults of every run, and the recipe that follows the paper for a dataset."""

import importlib
import pathlib
import sys
from typing import Any

from ml_collections import ConfigDict

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load(module: str, argument: str | None = None) -> dict[str, Any] | None:
    """configs/MODULE.py's config with dotted names, {"train.batch_size": 4096, ...}.

    None where the package was installed without the repository's configs/.
    """
    if not (ROOT / "configs" / f"{module}.py").is_file():
        return None
    sys.path.insert(0, str(ROOT))
    try:
        found = importlib.import_module(f"configs.{module}")
    finally:
        sys.path.remove(str(ROOT))
    return flatten(found.get_config() if argument is None else found.get_config(argument))


def flatten(config: ConfigDict | dict[str, Any]) -> dict[str, Any]:
    """{"section.field": value}, in the config's order; lists become tuples, as JSON knows only the former."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, (dict, ConfigDict)):
            flat |= {f"{key}.{name}": inner for name, inner in flatten(value).items()}
        else:
            flat[key] = tuple(value) if isinstance(value, list) else value
    return flat


def differences(default: dict[str, Any], chosen: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(field, default, chosen) of the fields that differ, in the defaults' order; "absent" where a side lacks it."""
    names = [*default, *(name for name in chosen if name not in default)]
    missing = object()
    rows = []
    for name in names:
        old, new = default.get(name, missing), chosen.get(name, missing)
        if old is missing or new is missing or old != new:
            rows.append((name, *("absent" if value is missing else shown(value) for value in (old, new))))
    return rows


def shown(value: Any) -> str:
    """A config's value as a person writes it."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, tuple):
        return ", ".join(map(shown, value)) or "none"
    return str(value)
