"""What the command lines share: --config, the messages for wrong flags, the devices of a CPU."""

import difflib
import importlib.machinery
import importlib.util
import inspect
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from soda_jax.configs import FOLDER

_STEP_DIGITS = 18  # more than any run has, and no more than a 64-bit integer holds

flags.disclaim_key_flags()  # --helpshort lists --config as a flag of the command that defines it


def define_config_flag(
    values: flags.FlagValues = flags.FLAGS, argv: Sequence[str] | None = None
) -> flags.FlagHolder[ConfigDict]:
    """Defines --config, and with it --config.FIELD=VALUE; its value is what `load_config` returns, locked.

    Args:
      argv: the command line that will be parsed, the program's name first; this process's own by default.
    """
    what = "Config: the name of one of ours, as imagenet or cifar10:small, or a file, as PATH/my.py or PATH/my.py:ARG."
    argv = None if argv is None else list(argv)
    holder = config_flags.DEFINE_config_file("config", None, what, values, lock_config=True, sys_argv=argv)
    values["config"].parser = _ConfigParser()
    return holder


def given_fields(values: flags.FlagValues = flags.FLAGS) -> set[str]:
    """The fields, with dotted names, that --config.FIELD=VALUE gave."""
    return set(config_flags.get_override_values(values["config"]))


class _ConfigParser(flags.ArgumentParser):
    """Finds our configs by name, and says what is wrong in a line where the library would show a traceback."""

    def parse(self, argument: str) -> ConfigDict:
        return load_config(argument).lock()

    def flag_type(self) -> str:
        return "config"


def config_names() -> list[str]:
    """The names of our configs; none where the package was copied without configs/."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def config_values() -> list[str]:
    """What --config takes of ours: each name, and NAME:ARGUMENT for each argument but the default."""
    values = []
    for name in config_names():
        values.append(name)
        module = _execute(FOLDER / f"{name}.py")
        values += [f"{name}:{argument}" for argument in getattr(module, "ARGUMENTS", ())[1:]]
    return values


def find_config(value: str) -> tuple[pathlib.Path, str | None]:
    """The file that --config=`value` means, as an absolute path, and the argument for its get_config.

    A name is one of ours, whatever lies in the current folder. A path is that file; where there is none, and only
    then, configs/NAME.py is ours as well, so that a command from the documentation works in any folder.

    Raises:
      ValueError: if there is no such file.
    """
    place, colon, argument = value.partition(":")
    names = config_names()
    path = pathlib.Path(os.path.expanduser(place))
    if place in names:
        path = FOLDER / f"{place}.py"
    elif not path.is_file() and path.stem in names and path == pathlib.Path("configs", f"{path.stem}.py"):
        path = FOLDER / path.name
    if not place or not path.is_file():
        raise ValueError(_not_found(place, names))
    return path.absolute(), argument if colon else None


def _not_found(place: str, names: list[str]) -> str:
    ours = f"our configs are {', '.join(names)}" if names else "our own configs/ is missing"
    if not place:
        return f"must be a config's name or a file; {ours}"
    if os.path.exists(place):
        return f"is {'a folder' if os.path.isdir(place) else 'no plain file'}; give a config's name or a file; {ours}"
    what = "there is no such file" if place.endswith(".py") or os.sep in place else "no config has this name"
    close = difflib.get_close_matches(pathlib.Path(place).stem, names)
    guess = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"{what}{guess}; {ours}"


def load_config(value: str) -> ConfigDict:
    """The config that --config=`value` means (see `find_config`), not locked.

    Raises:
      ValueError: if there is none, if its file fails, or if the argument does not suit; one line that says what to do.
    """
    path, argument = find_config(value)
    arguments = [] if argument is None else [argument]
    try:
        get_config = getattr(_execute(path), "get_config", None)
        _check_call(get_config, arguments, value.partition(":")[0])
        config = get_config(*arguments)
        if not isinstance(config, ConfigDict):
            raise ValueError(f"get_config must return a ConfigDict, and returned {type(config).__name__}")
    except Exception as error:
        raise ValueError(_explain(error, path)) from error
    return config


def _check_call(get_config: Any, arguments: list[str], place: str) -> None:
    if not callable(get_config):
        raise ValueError("the file has no function get_config, which must return the config")
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError:
        usage = "takes no argument; use --config={}" if arguments else "needs an argument; use --config={}:ARGUMENT"
        raise ValueError(f"{place} {usage.format(place)}") from None


def _execute(path: pathlib.Path) -> ModuleType:
    """The file as a module; not imported by name, as a user's file lies outside the import path."""
    loader = importlib.machinery.SourceFileLoader("config_config", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module  # dataclasses look themselves up there
    loader.exec_module(module)
    return module


def _explain(error: Exception, path: pathlib.Path) -> str:
    """One line: what went wrong in a config file, and where."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or path}, line {error.lineno} is no Python: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f"{path}, line {lines[-1]}" if lines else str(path)
    message = " ".join(str(error).split())
    if isinstance(error, ImportError) and str(error.name).partition(".")[0] == "configs":
        message += "; import our configs from soda_jax.configs, which works in every folder"
    return f"{message} ({place})" if isinstance(error, ValueError) else f"{type(error).__name__}: {message} ({place})"


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; a wrong config file or field ends with one line instead of a traceback."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"error: {error}\nRun with --helpshort to see the flags.")
    except (AttributeError, KeyError) as error:  # from an override, --config.FIELD=VALUE
        name = str(error.args[0]).replace("\\n", ". ").translate({ord(c): None for c in "\\'\""})
        sys.exit(f"error: the config has no field {name}")
    except (TypeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_devices(config: ConfigDict, cores: int) -> int:
    """The most devices, up to `cores`, that a microbatch of `config` divides over.

    One device a core trains faster than one device with all cores.
    """
    microbatch = config.train.batch_size // max(config.train.grad_accum_steps, 1)
    return max(
        count for count in range(1, max(cores, 1) + 1) if count == 1 or (microbatch > 0 and microbatch % count == 0)
    )


def parse_step(text: str, choices: str) -> int | str:
    """The checkpoint that --step names: its step, or "best".

    Args:
      choices: what the command takes, for the message.

    Raises:
      ValueError: for anything else.
    """
    if text != "best" and not (text.isascii() and text.isdigit() and len(text) <= _STEP_DIGITS):
        raise ValueError(f"--step={text}: give {choices}")
    return text if text == "best" else int(text)
