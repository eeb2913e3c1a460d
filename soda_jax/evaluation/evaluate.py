"""`--mode=evaluate`: the evaluators that the config names, on a checkpoint's EMA weights."""

import json
import pathlib

import jax
from ml_collections import ConfigDict

from soda_jax import config as config_lib
from soda_jax.config.evaluators import impossible, wanted
from soda_jax.evaluation import record
from soda_jax.evaluation.features import FeatureEvaluation
from soda_jax.evaluation.images import ImageEvaluation
from soda_jax.evaluation.interface import RAW_PIXELS
from soda_jax.evaluation.record import Results
from soda_jax.inference.engine import Inference
from soda_jax.inference.weights import Weights, of_checkpoint
from soda_jax.parallel import sharding
from soda_jax.paths import run_folder


def evaluate(
    config: ConfigDict,
    workdir: str,
    *,
    step: int | str | None = None,
    weights: Weights | None = None,
    devices: list[jax.Device] | None = None,
) -> Results:
    """Evaluates a checkpoint on the test split; prints a table and writes WORKDIR/evaluation_STEP.json.

    With several processes, all of them must call this.

    Args:
      step: which checkpoint: a step, or "best" by the metric that training watched; the newest by default.
      weights: in place of a checkpoint of the workdir (`soda_jax.given`); `step` then says nothing.
      devices: to work on; all by default.

    Returns:
      {row: {metric: figure}}: a row of the model's title ("SODA") and, if `config.eval.baselines`, "untrained encoder"
      and "raw pixels" for features, "nearest source" and "mean training image" for images. Figures with a spread are
      `Estimate`s.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: an evaluator is unknown, needs labels that the dataset lacks or weights that are missing.
    """
    workdir = run_folder(workdir)
    config_lib.validate(config)  # training's batch need not fit the devices here
    if lines := list(impossible(config)):  # training had no reason to mind
        raise config_lib.ConfigError("\n".join(lines))
    is_own = weights is None
    weights = of_checkpoint(config, workdir, step) if weights is None else weights
    step = weights.step
    mesh = sharding.make_mesh(devices)
    inference = Inference(config, mesh)
    # Data and weights of metrics are opened first: what is missing should not show after hours.
    parts: list[FeatureEvaluation | ImageEvaluation] = []
    if wanted(config, "features"):
        parts.append(FeatureEvaluation(config, inference, workdir))
    if wanted(config, "images"):
        parts.append(ImageEvaluation(config, inference))
    variables, digest = weights.read(inference)
    trained = inference.model.title
    results: Results = {trained: {}}
    num_images: dict[str, int] = {}
    for part in parts:
        part.run(variables, results)
        num_images |= part.num_images
    if is_own and wanted(config, "features"):
        _add_online_probe(workdir, step, results, trained)
    if jax.process_index() == 0:
        print(record.table(results, step))
        path = record.write(
            workdir,
            step,
            results,
            config,
            model=trained,
            num_images=num_images,
            weights=digest,
            is_rounded=weights.is_rounded,
            devices=list(mesh.devices.flat),
        )
        print(f"written to {path}")
    return results


def _add_online_probe(workdir: str, step: int, results: Results, trained: str) -> None:
    """Adds what training's last evaluation up to `step` measured with the online probe, on features and on pixels."""
    last: dict[str, float] = {}
    try:
        lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            row = json.loads(line)
            if "eval/loss" in row and row["step"] <= step:
                last = row
        except (ValueError, KeyError, TypeError):  # a line that a kill cut short, or that is no row of ours
            continue
    for prefix, name in (("probe/", trained), ("probe_pixels/", RAW_PIXELS)):
        found = {key.removeprefix(prefix): value for key, value in last.items() if key.startswith(prefix)}
        if name in results:
            results[name] |= {f"online_probe/{key}": value for key, value in found.items() if value is not None}
