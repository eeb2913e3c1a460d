"""The house keeps its order: imports point downwards, and rooms that know little import little."""

import ast
import pathlib
import re

import pytest

from soda_jax import build
from soda_jax.models.capabilities import CAPABILITIES
from soda_jax.models.families import FAMILIES

PACKAGE = pathlib.Path(build.__file__).parent
# From top to bottom: a room imports none that stands before it.
ROOMS = (
    "tools", "studies", "explorer", "main", "reporting", "evaluation", "performance", "training", "given", "api",
    "sharing", "inference", "workdir", "build", "objectives", "config", "inputs", "models", "rendering", "data",
    "diffusion", "metrics", "latents", "parallel", "rngs", "paths", "cli", "configs", "version",
)  # fmt: skip
# What a room may import of ours besides itself.
KNOWS = {
    "models": {"rngs", "latents"},
    "diffusion": set(),
    "metrics": {"paths"},
    "latents": set(),
    "data": {"paths"},
    "rendering": {"data"},
    "configs": set(),
}
# Rooms that leave these libraries alone, and the one file of each that has them to itself.
LEAVES_ALONE = {
    "data": ("jax", "flax", "optax", "orbax", "clu"),
    "metrics": ("optax", "orbax", "ml_collections"),
    "models": ("orbax", "ml_collections", "tensorflow_datasets"),
    "diffusion": ("flax", "orbax", "ml_collections", "tensorflow_datasets"),
}
ALONE_IMPORTS = {"orbax": "workdir/checkpoint.py", "clu": "workdir/writers.py"}
# The readers of published weights are networks, so they may open files.
OPENS_FILES = (
    "metrics/weights.py",
    "metrics/torch_weights.py",
    "metrics/inception.py",
    "metrics/lpips.py",
    "metrics/backbones.py",
)


def imported(path):
    """Modules that a file imports, with dots: "soda_jax.data.views", "jax"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "soda_jax" else {node.module}
            )
    return found


def files():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name != "__init__.py":
            yield name, name.removesuffix(".py").split("/")[0], imported(path)


FILES = list(files())


def test_every_file_stands_in_a_room():
    assert {room for _, room, _ in FILES} <= set(ROOMS)


def test_no_room_imports_one_above_it():
    for name, room, modules in FILES:
        for module in modules:
            if module.startswith("soda_jax."):
                other = module.split(".")[1]
                assert ROOMS.index(other) >= ROOMS.index(room), f"{name} imports {module}"


def test_rooms_that_know_little():
    for name, room, modules in FILES:
        ours = {module.split(".")[1] for module in modules if module.startswith("soda_jax.")} - {room}
        if room in KNOWS:
            assert ours <= KNOWS[room], f"{name} imports {sorted(ours - KNOWS[room])}"
        for library in LEAVES_ALONE.get(room, ()):
            assert library not in {module.split(".")[0] for module in modules}, f"{name} imports {library}"


def test_orbax_and_clu_have_one_door_each():
    for library, door in ALONE_IMPORTS.items():
        assert {name for name, _, modules in FILES if library in {m.split(".")[0] for m in modules}} == {door}


def test_the_explorers_page_alone_knows_gradio():
    """What it shows can be tested, and used, without gradio."""
    for name, _, modules in FILES:
        pages = {module for module in modules if module.startswith("soda_jax.explorer.page")}
        in_page = name.startswith("explorer/page/")
        assert in_page or "gradio" not in {module.split(".")[0] for module in modules}, name
        assert in_page or name == "tools/explore.py" or not pages, name


def test_metrics_and_latents_see_arrays_only():
    """Readers of published weights, by name, are the only ones that touch a file."""
    touches = re.compile(r"\bopen\(|\.read_text\(|\.write_text\(|np\.(load|save)\(")
    for name, room, _ in FILES:
        if room in ("metrics", "latents") and name not in OPENS_FILES:
            assert not touches.search((PACKAGE / name).read_text(encoding="utf-8")), name


def test_tools_are_commands():
    for path in sorted((PACKAGE / "tools").iterdir()):
        if path.suffix == ".py" and path.name != "__init__.py":
            assert '__name__ == "__main__"' in path.read_text(encoding="utf-8"), f"{path.name} is no command"
        elif path.is_dir() and path.name != "__pycache__":
            assert (path / "__main__.py").exists(), f"{path.name} is no command"


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_asked_for_what_they_can_do(family):
    """Only models, objectives and what builds and checks them may know a family by its name or class."""
    assert FAMILIES[family].capabilities <= set(CAPABILITIES)
    named = re.compile(rf"[\"']{family}[\"']|\b{FAMILIES[family].model.__name__}\(")
    for name, room, modules in FILES:
        if room in ("training", "evaluation", "inference", "api", "reporting"):
            assert not {"soda_jax.models.baselines", "soda_jax.models.soda"} & modules, name
            found = named.findall((PACKAGE / name).read_text(encoding="utf-8"))
            assert not found or (family, room) == ("soda", "reporting"), name  # what configs of old leave out
    assert set(build._FAMILIES) == set(FAMILIES)
