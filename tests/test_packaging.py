"""What is installed: the wheel of a clone, and that of its sdist, carry configs/ and all that is not code."""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = (
    "setup.py",
    "pyproject.toml",
    "requirements.txt",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "soda_jax",
    "configs",
)
# A model that comes along, beside those of the checkout.
MODEL = tuple(
    f"soda_jax/pretrained/one_more/{name}"
    for name in ("soda.json", "README.md", "model.safetensors", "directions/00000001/up.npz", "examples/0000.png")
)
USE = """
import soda_jax
from soda_jax.cli import load_config
from soda_jax.configs import cifar100
from soda_jax.reporting import recipes
assert soda_jax.__file__.startswith({place!r}) and cifar100.__file__.startswith({place!r})
assert load_config("cifar10:small").data.name == load_config("configs/cifar10.py").data.name == "cifar10"
assert recipes.load("imagenet")["data.name"] == "imagenet2012"
"""


def setuptools_can_build() -> bool:
    """Whether the setuptools here is one that pyproject.toml takes, so that nothing need be fetched."""
    try:
        return int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        return False


pytestmark = pytest.mark.skipif(not setuptools_can_build(), reason="needs setuptools>=77, as pip install -e '.[test]'")


def call(hook, source, output):
    """Calls a hook of PEP 517 in the folder `source`, as pip and build do; returns the path of what it made."""
    code = f"from setuptools import build_meta; print(build_meta.{hook}({str(output)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return output / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """(the wheel built from a copy of the clone, the one built from the sdist of that copy)."""
    folder = tmp_path_factory.mktemp("packages")
    clone = folder / "clone"
    clone.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, clone / name)
    for name in MODEL:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_bytes(b"x")
    sdist = call("build_sdist", clone, folder)
    shutil.unpack_archive(sdist, folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    built = []
    for name, source in (("of_clone", clone), ("of_sdist", unpacked)):
        (folder / name).mkdir()
        built.append(call("build_wheel", source, folder / name))
    return built


def test_they_hold_every_file_of_the_package_and_every_config(wheels):
    package = {path for path in (ROOT / "soda_jax").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    expected = {str(path.relative_to(ROOT)) for path in package}
    expected |= {f"soda_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")} | set(MODEL)
    for wheel in wheels:
        names = zipfile.ZipFile(wheel).namelist()
        assert {name for name in names if ".dist-info/" not in name} == expected
        assert len(names) == len(set(names))


def test_an_installed_one_finds_configs_in_an_empty_folder(wheels, tmp_path):
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    zipfile.ZipFile(wheels[1]).extractall(installed)
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", USE.format(place=str(installed))]
    done = subprocess.run(command, cwd=empty, env=environment, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
