"""Our configs, for comparison: the defaults of every run, and the recipe that follows the paper for a dataset."""

from typing import Any

from ml_collections import ConfigDict

from soda_jax.cli import config_names, load_config


def load(name: str, argument: str | None = None) -> dict[str, Any] | None:
    """Our config of this name with dotted fields, {"train.batch_size": 4096, ...}.

    None where the package was copied without the repository's configs/, or without this one.
    """
    if name not in config_names():
        return None
    return flatten(load_config(name if argument is None else f"{name}:{argument}"))


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
