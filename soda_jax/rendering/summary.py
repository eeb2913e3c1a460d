"""What lies beside the objects' folders: splits, credits, the list of skipped models, a contact sheet."""

import json
import pathlib
import re
import shutil
from collections.abc import Mapping

import cv2
import numpy as np

from soda_jax.data.datasets.base import hashed_split
from soda_jax.rendering.catalogue import Model
from soda_jax.rendering.views import TRANSFORMS, is_complete

_SHEET_OBJECTS, _SHEET_VIEWS, _SHEET_COLUMNS, _SHEET_CELL = 60, 4, 4, 96


def write_summary(meshes: pathlib.Path, out: pathlib.Path, models: list[Model], skipped: Mapping[str, str]) -> None:
    """Writes splits.json, credits.json, CREDITS.md, licences/, skipped.txt and contact_sheet.png.

    Args:
        models: all that there are; those whose views lie in `out` are described.
        skipped: reasons by name of the models that could not be rendered.
    """
    done = [model for model in models if is_complete(out, model.name)]
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for model in done:
        splits[hashed_split(model.name)].append(model.name)
    (out / "splits.json").write_text(json.dumps(splits, indent=1), encoding="utf-8")
    _write_credits(meshes, out, done)
    paths = {model.name: model.path for model in models}
    lines = [f"{paths[name]}: {reason}\n" for name, reason in sorted(skipped.items())]
    (out / "skipped.txt").write_text("".join(lines), encoding="utf-8")
    if done:
        sheet = contact_sheet(out, [model.name for model in done])
        cv2.imwrite(str(out / "contact_sheet.png"), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


def contact_sheet(out: pathlib.Path, names: list[str]) -> np.ndarray:
    """uint8 RGB: up to 60 of the objects, spread over the list, with four views of each."""
    count = min(len(names), _SHEET_OBJECTS)
    chosen = [names[i * len(names) // count] for i in range(count)]
    strips = [_strip(out / name) for name in chosen]
    columns = min(_SHEET_COLUMNS, len(strips))
    strips += [np.full_like(strips[0], 255)] * (-len(strips) % columns)
    rows = [np.concatenate(strips[i : i + columns], axis=1) for i in range(0, len(strips), columns)]
    return np.concatenate(rows)


def _strip(folder: pathlib.Path) -> np.ndarray:
    frames = json.loads((folder / TRANSFORMS).read_text(encoding="utf-8"))["frames"]
    files = [frames[i % len(frames)]["file_path"] for i in range(_SHEET_VIEWS)]
    images = [cv2.cvtColor(cv2.imread(str(folder / file)), cv2.COLOR_BGR2RGB) for file in files]
    side = min(_SHEET_CELL, images[0].shape[0])
    return np.concatenate([cv2.resize(im, (side, side), interpolation=cv2.INTER_AREA) for im in images], axis=1)


def _write_credits(meshes: pathlib.Path, out: pathlib.Path, models: list[Model]) -> None:
    rows, lines = [], []
    for model in models:
        licence = _kept_licence(meshes, out, model.licence)
        row = {"object": model.name, "title": model.title, "creator": model.creator, "library": model.library}
        row |= {"licence": licence, "mesh": model.path}
        rows.append(row)
        cells = [row[key] or "unknown" for key in ("object", "title", "creator", "library", "licence")]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    (out / "credits.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    head = (
        "# Who made the models behind these images\n\n"
        "Keep this list with the images: licences such as CC-BY ask for it. A licence that is a file lies in "
        "`licences/`.\n\n| object | title | creator | library | licence |\n| --- | --- | --- | --- | --- |\n"
    )
    (out / "CREDITS.md").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


def _kept_licence(meshes: pathlib.Path, out: pathlib.Path, licence: str | None) -> str | None:
    """The licence as it is shown: a file of the models is copied to licences/, anything else stays."""
    if licence is None or not (meshes / licence).is_file():
        return licence
    target = out / "licences" / re.sub(r"[^A-Za-z0-9._-]+", "_", licence)
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(meshes / licence, target)
    return target.relative_to(out).as_posix()
