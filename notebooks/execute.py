"""Executes notebooks and keeps what they print and draw, without what belongs to the machine.

    python notebooks/execute.py [NAME.ipynb ...]

Each runs in an empty folder of its own. Paths, progress bars, sliders (GitHub shows none) and times are left out of
what is kept, and the time that each took is printed. Needs the extra `notebooks`.
"""

import argparse
import base64
import io
import pathlib
import re
import sys
import tempfile
import time

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = pathlib.Path(__file__).resolve().parent
MOST_BYTES = 600_000  # of a notebook with its outputs
_CELL_SECONDS = 3600
_WIDGET = "application/vnd.jupyter.widget-view+json"
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # colours and moves of a terminal
_LOG = re.compile(r"^[IWE]\d{4} [\d:.]+ +\d+ [\w.]+:\d+\] ", re.MULTILINE)  # time and place before a line of absl's log


def with_parameters(notebook: nbformat.NotebookNode, code: str) -> None:
    """Adds `code` to the cell tagged "parameters", where it overrides what stands there."""
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    if len(cells) != 1:
        raise ValueError(f"{len(cells)} cells are tagged 'parameters'; there must be one")
    cells[0].source += f"\n{code}"


def execute(path: pathlib.Path, folder: pathlib.Path, parameters: str = "") -> nbformat.NotebookNode:
    """The notebook with the outputs that it has when executed in `folder`.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    if parameters:
        with_parameters(notebook, parameters)
    client = NotebookClient(
        notebook,
        timeout=_CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


def cleaned(notebook: nbformat.NotebookNode, folder: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook without what another execution, or another machine, would have otherwise."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = nbformat.from_dict({"name": "python"})
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if _WIDGET not in output.get("data", ())]
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = _plain(output.text, folder)
            elif "image/png" in output.get("data", ()):
                output.data["image/png"] = _small(output.data["image/png"])
            elif "text/plain" in output.get("data", ()):
                output.data["text/plain"] = _plain(output.data["text/plain"], folder)
        cell.outputs = [output for output in cell.outputs if output.get("text", "shown").strip()]
    return notebook


def _small(picture: str) -> str:
    """A PNG, in base64, with a palette of 256 colours: a third of the bytes."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as opened:
        opened.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _plain(text: str, folder: pathlib.Path) -> str:
    """Text as a terminal would show it in the end: of each line what follows the last return to its start."""
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in _ESCAPES.sub("", text).split("\n")]
    text = _LOG.sub("", "\n".join(line for line in lines if "%|" not in line))  # and no progress bars
    for place, shown in ((folder.resolve(), "."), (pathlib.Path(sys.prefix), "python"), (pathlib.Path.home(), "~")):
        text = text.replace(str(place), shown)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="of notebooks; all by default")
    names = parser.parse_args().names or sorted(path.name for path in FOLDER.glob("*.ipynb"))
    for name in names:
        path = FOLDER / pathlib.Path(name).name
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            notebook = cleaned(execute(path, pathlib.Path(folder)), pathlib.Path(folder))
            seconds = time.monotonic() - start
        text = nbformat.writes(notebook)
        if len(text.encode()) > MOST_BYTES:
            sys.exit(f"{path.name} has {len(text.encode()):,} bytes with its outputs; show fewer or smaller pictures")
        path.write_text(text + "\n", encoding="utf-8")
        print(f"{path.name}: {seconds:.0f} s, {len(text.encode()):,} bytes", flush=True)


if __name__ == "__main__":
    main()
