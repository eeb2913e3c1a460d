"""The notebooks as the tests read them, and the scripts beside them as modules: `notebooks/` is no package."""

import ast
import importlib.util
import json
import pathlib
import re
from types import ModuleType
from typing import Any

from tests.docs import pages

FOLDER = pages.ROOT / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))


def script(name: str) -> ModuleType:
    """notebooks/NAME.py."""
    spec = importlib.util.spec_from_file_location(f"notebooks_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(path: pathlib.Path) -> list[dict[str, Any]]:
    """The cells, each with its source as one string."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found]


def prose(path: pathlib.Path) -> str:
    return "\n\n".join(cell["source"] for cell in cells(path) if cell["cell_type"] == "markdown")


def code(path: pathlib.Path) -> list[str]:
    return [cell["source"] for cell in cells(path) if cell["cell_type"] == "code"]


def parsed(source: str) -> ast.Module:
    """A code cell as Python, its commands of the shell and of IPython replaced by nothing."""
    return ast.parse(re.sub(r"^( *)[!%].*", r"\1pass", source, flags=re.MULTILINE))


def imported(tree: ast.AST) -> set[tuple[str, str]]:
    """(module, name) of what is imported of soda_jax: ("soda_jax", "") for `import soda_jax`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module, alias.name) for alias in node.names}
    return {pair for pair in found if pair[0].split(".")[0] == "soda_jax"}
