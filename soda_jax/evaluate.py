"""`--mode=evaluate`: the evaluators that the config names, on a checkpoint's EMA weights."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict
from tabulate import tabulate

from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.checkpoint import check_same_model, load_ema, read_meta
from soda_jax.data.pipeline import eval_batches, iterate, train_dataset
from soda_jax.evaluators.features import collect, raw_pixels
from soda_jax.evaluators.knn import KNN
from soda_jax.evaluators.linear_probe import LinearProbeEvaluator
from soda_jax.evaluators.novel_view import NovelView, mean_target
from soda_jax.evaluators.reconstruction import Reconstruction
from soda_jax.inference import Inference

CALIBRATION_BATCHES = 50  # BatchNorm's average forgets its start by 0.9 ** 50
MEAN_TARGETS = 4096  # training views in the mean image: its error is then 1/64 of a pixel's spread

Results = dict[str, dict[str, float]]


def evaluate(config: ConfigDict, workdir: str) -> Results:
    """Evaluates the newest checkpoint; prints a table and writes WORKDIR/evaluation_STEP.json.

    Returns:
      {row: {metric: value}}, with rows "SODA" and, if `config.eval.baselines`, "untrained encoder" and "raw pixels" for
      features, "nearest source" and "mean training image" for novel views.

    Raises:
      ValueError: an evaluator is unknown, or needs targets that the dataset lacks.
    """
    config_lib.validate(config)  # training's batch need not fit the devices here
    if jax.process_count() > 1:
        raise config_lib.ConfigError("--mode=evaluate runs in one process; start it on one host")
    step, meta = read_meta(workdir)
    check_same_model(workdir, meta, config)
    inference = Inference(config)
    variables = load_ema(workdir, step, inference.abstract_variables())
    results: Results = {"SODA": {}}
    if set(config.eval.evaluators) & set(config_lib.FEATURE_EVALUATORS):
        _evaluate_features(config, inference, variables, results)
    if "reconstruction" in config.eval.evaluators:
        source = build.source(config, config.data.eval_split)
        limit = config.eval.reconstruction_examples or None
        results["SODA"] |= Reconstruction(inference, source, build.view_spec(config), limit).run(variables)
    if "novel_view" in config.eval.evaluators:
        _evaluate_novel_views(config, inference, variables, results)
    _report(results, step, workdir)
    return results


def _evaluate_features(config: ConfigDict, inference: Inference, variables: dict, results: Results) -> None:
    """k-NN and the linear probe for the trained encoder and its baselines."""
    train, test = build.source(config, config.data.train_split), build.source(config, config.data.eval_split)
    task = build.probe_task(config, train.targets)
    if task is None:
        raise config_lib.ConfigError(
            "config.eval.evaluators: knn and linear_probe need labels, and the dataset has none (or "
            "config.probe.kind is 'none'); leave them out"
        )
    spec = build.view_spec(config)

    def batches(source, limit: int) -> Iterator[dict[str, np.ndarray]]:
        return eval_batches(source, spec, batch_size=inference.eval_batch_size, limit=limit or None)

    def encoder(weights: dict) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        return lambda batch: next(inference.encode_batches(weights, [batch], config.eval.feature))

    rows = {"SODA": encoder(variables)}
    if config.eval.baselines:
        calibration = train_dataset(train, spec, batch_size=inference.eval_batch_size, seed=config.seed)
        untrained = inference.calibrate(
            inference.untrained_variables(), _first(iterate(calibration), CALIBRATION_BATCHES)
        )
        rows |= {"untrained encoder": encoder(untrained), "raw pixels": raw_pixels}
    knn = KNN(tuple(config.eval.knn_k))
    probe = LinearProbeEvaluator(
        tuple(config.eval.probe_learning_rates),
        config.eval.probe_epochs,
        dropout=config.probe.dropout,
        label_smoothing=config.probe.label_smoothing,
        init_scale=config.probe.init_scale,
        bias_init=config.probe.bias_init,
    )
    for name, extract in rows.items():
        features = [
            collect(batches(source, limit), extract, task)
            for source, limit in ((train, config.eval.train_examples), (test, config.eval.test_examples))
        ]
        row = results.setdefault(name, {})
        if "knn" in config.eval.evaluators:
            row |= knn.run(*features)
        if "linear_probe" in config.eval.evaluators:
            row |= probe.run(*features)
        print(f"{name}: {len(features[0].features)} training, {len(features[1].features)} test examples")


def _evaluate_novel_views(config: ConfigDict, inference: Inference, variables: dict, results: Results) -> None:
    """Views of held-out objects, and their baselines on the same views."""
    spec = build.view_spec(config)
    evaluator = NovelView(
        inference,
        build.source(config, config.data.eval_split),
        spec,
        counts=tuple(config.eval.novel_view_sources),
        num_targets=config.eval.novel_view_targets,
        limit=config.eval.novel_view_examples or None,
    )
    results["SODA"] |= evaluator.run(variables)
    if config.eval.baselines:
        train, size = build.source(config, config.data.train_split), inference.eval_batch_size
        spec = dataclasses.replace(spec, num_sources=1, min_sources=0)
        batches = iterate(train_dataset(train, spec, batch_size=size, seed=config.seed))
        mean_image = mean_target(_first(batches, -(-MEAN_TARGETS // size)))
        for name, row in evaluator.baselines(mean_image).items():
            results.setdefault(name, {}).update(row)


def _first(items: Iterator, count: int) -> Iterator:
    return (next(items) for _ in range(count))


def _report(results: Results, step: int, workdir: str) -> None:
    metrics = list(dict.fromkeys(metric for row in results.values() for metric in row))
    table = [
        [metric, *(f"{row[metric]:.4f}" if metric in row else "" for row in results.values())] for metric in metrics
    ]
    print(tabulate(table, headers=[f"step {step}", *results], disable_numparse=True))
    path = pathlib.Path(workdir) / f"evaluation_{step:08d}.json"
    path.write_text(json.dumps({"step": step, "results": results}, indent=2) + "\n")
    print(f"written to {path}")
