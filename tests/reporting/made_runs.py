"""Workdirs for tests of reports, written as training and evaluation write them, without either."""

import json
import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from soda_jax.workdir.run_record import RunRecord
from soda_jax.workdir.writers import save_png

NEW_RESULTS = {
    "SODA": {
        "linear_probe/label": {"value": 0.7012, "low": 0.6971, "high": 0.7055, "count": 50_000, "over": "images"},
        "linear_probe/label_top5": {"value": 0.89, "low": 0.88, "high": 0.9, "count": 50_000, "over": "images"},
        "linear_probe/learning_rate": {"value": 0.003, "low": None, "high": None, "count": None, "over": None},
        "reconstruction/psnr": {"value": 21.5, "low": 21.25, "high": 21.75, "count": 64, "over": "images"},
        "reconstruction/lpips_vgg16": {"value": 0.31, "low": 0.3, "high": 0.32, "count": 64, "over": "images"},
    },
    "raw pixels": {
        "linear_probe/label": {"value": 0.0312, "low": 0.03, "high": 0.0325, "count": 50_000, "over": "images"}
    },
}


def record(workdir: pathlib.Path, config: ConfigDict, *steps: tuple[int, int]) -> None:
    """run.json of one start of training for each (first step, last step)."""
    for first, last in steps:
        entry = RunRecord(str(workdir), config, first)
        entry.update(last)


def metrics(workdir: pathlib.Path, *lines: dict[str, Any] | str) -> None:
    """metrics.jsonl with `lines`; text is written as it is."""
    workdir.mkdir(parents=True, exist_ok=True)
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)


def evaluation(workdir: pathlib.Path, step: int, results: dict[str, Any], **details: Any) -> pathlib.Path:
    """evaluation_STEP.json; without `details` it is as the first release wrote it."""
    workdir.mkdir(parents=True, exist_ok=True)
    data = {"step": step, "results": results} | details
    path = workdir / f"evaluation_{step:08d}.json"
    path.write_text(json.dumps(data))
    return path


def picture(workdir: pathlib.Path, name: str, side: int = 8) -> pathlib.Path:
    """A picture of noise at WORKDIR/NAME."""
    path = workdir / name
    image = np.random.default_rng(len(name)).integers(0, 256, (side, side, 3), np.uint8)
    if path.suffix == ".gif":
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    else:
        save_png(path, image)
    return path
