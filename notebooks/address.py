"""Where the project can be fetched from: the one place that the notebooks have it from.

    python notebooks/address.py            writes the first two cells of every notebook again
    python notebooks/address.py --check    only says which of them are stale

The project has no public address yet. Once it has one, set `REPOSITORY` and `REVISION`, and run this.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

REPOSITORY = "ORGANISATION/soda_jax"  # a placeholder: owner and name on GitHub
REVISION = "main"  # a branch, tag or commit

FOLDER = pathlib.Path(__file__).resolve().parent
TITLES = {
    "1_soda_in_five_minutes.ipynb": "SODA in five minutes",
    "2_walk_and_edit.ipynb": "Walk and edit",
    "3_novel_views.ipynb": "Novel views",
    "4_train_your_own.ipynb": "Train your own",
    "5_compare.ipynb": "Compare",
}

_BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
_COLAB = "https://colab.research.google.com/github"
_INSTALL = """\
import sys

REPOSITORY = "{repository}"
REVISION = "{revision}"

# Elsewhere than on Colab this does nothing.
if "google.colab" in sys.modules:
    %pip install -q "soda-jax @ git+https://github.com/{{REPOSITORY}}@{{REVISION}}"\
"""


def button(name: str) -> str:
    """The Markdown of the button that opens the notebook `name` on Colab."""
    return f"[![Open in Colab]({_BADGE})]({_COLAB}/{REPOSITORY}/blob/{REVISION}/notebooks/{name})"


def head(name: str) -> tuple[str, str]:
    """Title with the button, and the cell that installs the package on Colab."""
    return f"# {TITLES[name]}\n\n{button(name)}", _INSTALL.format(repository=REPOSITORY, revision=REVISION)


def filled(name: str, text: str) -> str:
    """The notebook's JSON with the first two cells as `head` has them; all else stays."""
    notebook = json.loads(text)
    for cell, source in zip(notebook["cells"][:2], head(name), strict=True):
        cell["source"] = source.splitlines(keepends=True)
    return dumped(notebook)


def dumped(notebook: dict[str, Any]) -> str:
    """A notebook as the text of its file."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def stale() -> list[pathlib.Path]:
    """The notebooks that `filled` changes."""
    texts = {FOLDER / name: (FOLDER / name).read_text(encoding="utf-8") for name in TITLES}
    return [path for path, text in texts.items() if filled(path.name, text) != text]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a notebook is stale")
    check = parser.parse_args().check
    found = stale()
    for path in found:
        if not check:
            path.write_text(filled(path.name, path.read_text(encoding="utf-8")), encoding="utf-8")
        print("stale:" if check else "wrote", path.relative_to(FOLDER.parent))
    if check and found:
        sys.exit("run python notebooks/address.py")


if __name__ == "__main__":
    main()
