"""--config: a name, a file of ours, a user's own; from any folder, with overrides; one line if it is wrong."""

import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from soda_jax import cli
from soda_jax.config import variants
from soda_jax.reporting import recipes
from soda_jax.tools.drill import __main__ as drill

ROOT = pathlib.Path(__file__).parents[1]
OURS = ROOT / "configs"
MINE = """from soda_jax.configs import cifar10


def get_config(size="small"):
    config = cifar10.get_config(size)
    config.seed = 7
    return config
"""
# What a config file may do wrong, and what is said of it; FILE is its path.
WRONG = {
    "def get_config(:": "FILE, line 1 is no Python: ",
    "\n\nimport json\n": "the file has no function get_config, which must return the config (FILE)",
    "\nx = {}['gone']": "KeyError: 'gone' (FILE, line 2)",
    "def get_config():\n    return f(1)\n\n\ndef f(x):\n    return x.y": "no attribute 'y' (FILE, line 6)",
    "def get_config():\n    raise ValueError('two\\nlines')": "two lines (FILE, line 2)",
    "def get_config():\n    pass": "get_config must return a ConfigDict, and returned NoneType (FILE)",
    "import nowhere_to_be_found": "ModuleNotFoundError: No module named 'nowhere_to_be_found' (FILE, line 1)",
    "from configs import gone_from_here": "import our configs from soda_jax.configs",
    "def get_config(size):\n    pass": "PLACE needs an argument; use --config=PLACE:ARGUMENT",
}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder, and the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parse(monkeypatch, *arguments, define=cli.define_config_flag):
    """The value of --config after `arguments`, as a command sees it."""
    values = flags.FlagValues()
    holder = define(values)
    line = ["command", *arguments]
    monkeypatch.setattr(sys, "argv", line)
    values(line)
    return holder.value


def run(program, folder, path=ROOT):
    """Runs Python code in a folder, with the package where `path` is and nothing of the tests' own."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", program]
    environment["PYTHONPATH"] = str(path)
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=120)


def test_explicit_fields_win_over_a_variant_wherever_they_stand(monkeypatch):
    for line in (
        ("--config=cifar10", "--config.model.modulation.kind=sum", "--config.seed=3"),
        ("--config=configs/cifar10.py", "--config.seed=3", "--config.model.modulation.kind", "sum"),
    ):
        values = flags.FlagValues()
        holder = cli.define_config_flag(values)
        monkeypatch.setattr(sys, "argv", ["command", *line])
        values(sys.argv)
        assert cli.given_fields(values) == {"model.modulation.kind", "seed"}
        config = variants.chosen(holder.value, "w/o layer modulation", cli.given_fields(values))
        assert (config.model.modulation.kind, config.variant) == ("sum", "w/o layer modulation")
        config = variants.chosen(holder.value, "w/o bottleneck", {"seed"})
        assert (config.model.modulation.kind, config.model.bottleneck, config.seed) == ("cross_attention", False, 3)
    assert parse(monkeypatch, "--config=cifar10").variant == ""


@pytest.mark.parametrize(
    ("value", "file", "argument"),
    [
        ("imagenet", "imagenet.py", None),
        ("cifar10:small", "cifar10.py", "small"),
        ("cifar10:", "cifar10.py", ""),
        ("configs/imagenet.py", "imagenet.py", None),
        ("./configs/cifar10.py:small", "cifar10.py", "small"),
        (f"{OURS}/cifar10.py:small", "cifar10.py", "small"),
    ],
)
@pytest.mark.parametrize("folder", [ROOT, ROOT / "soda_jax", pathlib.Path("/")])
def test_ours_are_found_from_every_folder(value, file, argument, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert cli.find_config(value) == (OURS / file, argument)


def test_a_users_file_comes_before_ours_and_a_name_before_a_users_folder(elsewhere):
    (elsewhere / "configs").mkdir()
    (elsewhere / "configs" / "imagenet.py").touch()
    (elsewhere / "imagenet").mkdir()  # their images, perhaps
    assert cli.find_config("configs/imagenet.py:a:b") == (elsewhere / "configs" / "imagenet.py", "a:b")
    assert cli.find_config("configs/cifar10.py") == (OURS / "cifar10.py", None)
    assert cli.find_config("imagenet") == (OURS / "imagenet.py", None)


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my.py").touch()
    assert cli.find_config("~/my.py") == (tmp_path / "my.py", None)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("imagnet", "no config has this name (did you mean imagenet"),
        ("zzzzz", "no config has this name; our configs are afhq, "),
        ("configs/quikstart.py", "there is no such file (did you mean quickstart?)"),
        ("other/imagenet.py", "there is no such file"),
        ("imagenet.py", "there is no such file (did you mean imagenet"),
        ("", "must be a config's name or a file; our configs are"),
        (":small", "must be a config's name or a file"),
        ("/", "is a folder; give a config's name or a file"),
        (os.devnull, "is no plain file; give a config's name or a file"),
    ],
)
def test_what_is_not_found_is_answered_with_the_names(value, said, elsewhere):
    with pytest.raises(ValueError) as error:
        cli.load_config(value)
    message = str(error.value)
    assert said in message and "\n" not in message
    assert all(path.stem in message for path in OURS.glob("*.py"))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("quickstart:small", "quickstart takes no argument; use --config=quickstart ("),
        ("configs/quickstart.py:small", "takes no argument; use --config=configs/quickstart.py ("),
        ("cifar10:tiny", "cifar10.py has no argument 'tiny'; use one of full, small, validated ("),
        ("cifar10:", "cifar10.py has no argument ''; use one of full, small, validated ("),
    ],
)
def test_a_wrong_argument_is_answered_with_the_right_ones(value, said, elsewhere):
    with pytest.raises(ValueError) as error:
        cli.load_config(value)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("code", WRONG)
def test_a_file_that_fails_is_one_line(code, elsewhere):
    (elsewhere / "my.py").write_text(code)
    with pytest.raises(ValueError) as error:
        cli.load_config("my.py")
    message = str(error.value)
    assert WRONG[code].replace("FILE", str(elsewhere / "my.py")).replace("PLACE", "my.py") in message
    assert "\n" not in message


def test_a_users_file_starts_from_ours_with_argument_and_overrides(elsewhere, monkeypatch):
    (elsewhere / "sub").mkdir()
    (elsewhere / "sub" / "my.py").write_text(MINE)
    ours = cli.load_config("cifar10:full")
    config = parse(monkeypatch, "--config=sub/my.py:full", "--config.model.latent_dim=96", "--noconfig.data.flip")
    assert (config.seed, config.model.latent_dim, config.data.flip) == (7, 96, False)
    assert config.is_locked and ours.data.flip
    for section, field, value in ((config, "seed", ours.seed), (config.model, "latent_dim", ours.model.latent_dim)):
        section[field] = value
    config.data.flip = True
    assert config.to_dict() == ours.to_dict()


def test_overrides_are_those_of_config_flags(monkeypatch):
    """The library's own flag is given the file's path, ours its name."""
    rest = (
        "--config.model.latent_dim=256", "--config.data.crop_scale=(0.5,1.0)", "--config.data.root=a:b",
        "--config.seed", "3", "--config.sampling.turntable_altitude=20", "--config.data.augment_source=false",
        "--noconfig.eval.baselines",
    )  # fmt: skip

    def of_library(values):
        return config_flags.DEFINE_config_file("config", flag_values=values)

    expected = parse(monkeypatch, f"--config={OURS}/cifar10.py:small", *rest, define=of_library)
    found = parse(monkeypatch, "--config", "cifar10:small", *rest)
    assert found.to_dict() == expected.to_dict() and found.is_locked
    assert (found.model.latent_dim, found.data.crop_scale, found.seed) == (256, (0.5, 1.0), 3)


@pytest.mark.parametrize("value", ["", "imagnet", "quickstart:small", "/"])
def test_a_command_ends_with_one_line(value, monkeypatch):
    values = flags.FlagValues()
    cli.define_config_flag(values)
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(sys, "argv", ["command", f"--config={value}"])
    with pytest.raises(SystemExit) as end:
        cli.parse_flags(sys.argv)
    line, *help_line = str(end.value).splitlines()
    assert line.startswith(f"error: flag --config={value}: ")
    assert help_line == ["Run with --helpshort to see the flags."]


def test_the_drills_runs_get_the_files_whole_path(elsewhere):
    (elsewhere / "my.py").write_text(MINE)
    assert drill.checked("quickstart") == str(OURS / "quickstart.py")
    assert drill.checked("my.py:full") == f"{elsewhere}/my.py:full"
    with pytest.raises(SystemExit, match="^error: --config=my.py:tiny: cifar10.py has no argument 'tiny'"):
        drill.checked("my.py:tiny")


STRANGE = """
from soda_jax.cli import load_config
from soda_jax.reporting import recipes
assert load_config("folder:small").train.num_steps == 24_000
assert load_config("configs/cifar100.py").data.name == "cifar100"
assert load_config("my.py").seed == 7
assert recipes.load("mpi3d", "real")["data.name"] == "mpi3d/real"
"""


def test_a_strangers_configs_are_not_touched(elsewhere):
    (elsewhere / "configs").mkdir()
    for name in ("__init__", "common", "cifar10"):
        (elsewhere / "configs" / f"{name}.py").write_text("raise RuntimeError('not yours')")
    (elsewhere / "my.py").write_text(MINE)
    done = run(STRANGE, elsewhere)
    assert done.returncode == 0, done.stderr
    with pytest.raises(ValueError, match="RuntimeError: not yours"):
        cli.load_config("configs/cifar10.py")  # which names their file


def test_files_written_from_the_old_docs_work_in_the_checkout(tmp_path):
    (tmp_path / "old.py").write_text(MINE.replace("soda_jax.configs", "configs"))
    load = f"from soda_jax.cli import load_config; print(load_config({str(tmp_path / 'old.py')!r}).seed)"
    done = run(load, ROOT)
    assert done.stdout == "7\n", done.stderr
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "soda_jax").symlink_to(ROOT / "soda_jax")
    done = run(load, tmp_path, tmp_path / "installed")
    assert "ModuleNotFoundError: No module named 'configs'; import our configs from soda_jax.configs" in done.stderr


def test_without_configs_a_users_file_still_loads(elsewhere, monkeypatch):
    """As where soda_jax/ alone was copied."""
    monkeypatch.setattr(cli, "FOLDER", elsewhere / "missing")
    (elsewhere / "my.py").write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict()\n"
    )
    assert len(cli.load_config("my.py")) == 0
    with pytest.raises(ValueError, match="no config has this name; our own configs/ is missing"):
        cli.load_config("imagenet")
    assert recipes.load("imagenet") is None
