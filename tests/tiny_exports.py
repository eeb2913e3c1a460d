"""Exports of random weights, for tests of what loads them: nothing is trained and nothing compiled."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.data.datasets import Labels
from soda_jax.reporting import card
from soda_jax.workdir import examples as example_files
from soda_jax.workdir import export as exports
from soda_jax.workdir.digest import weights_digest
from soda_jax.workdir.examples import StoredExamples
from soda_jax.workdir.meta import labels_meta
from tests import tiny, tiny_checkpoint

FIGURES = {"SODA": {"linear_probe/label": {"value": 0.75, "low": 0.7, "high": 0.8}, "knn/label": 0.5}}


def examples(count: int = 4, side: int = 8, width: int = 16, views: int = 0, seed: int = 0) -> StoredExamples:
    """Random pictures with classes and codes; with `views`, of objects seen by cameras."""
    rng = np.random.default_rng(seed)
    shape = (count, views, side, side, 3) if views else (count, side, side, 3)
    cameras = tiny.posed_batch(count, seed, max(views, 1))
    return StoredExamples(
        images=rng.integers(0, 256, shape, np.uint8),
        labels={"label": np.arange(count, dtype=np.int32) % 3, "attributes": rng.integers(0, 2, (count, 2), np.int32)},
        poses=cameras["source_pose"] if views else None,
        intrinsics=cameras["source_intrinsics"] if views else None,
        credits=tuple(f"somebody's, example {i}" for i in range(count)),
        licenses=("cc0-1.0",) * count,
        codes=rng.standard_normal((count, width)).astype(np.float32),
    )


def export_of(
    config: ConfigDict | None = None,
    step: int = 7,
    labels: Mapping[str, Labels] | None = None,
    with_examples: bool = False,
) -> exports.Export:
    """With the weights of `tiny_checkpoint.random_variables(config, seed=step)`, and with labels a probe of them."""
    config = tiny.get_config() if config is None else config
    variables = tiny_checkpoint.random_variables(config, seed=step)
    task = build.probe_task(config, labels) if labels else None
    probe = None if task is None else tiny_checkpoint.random_probe(config.model.latent_dim, sum(task.sizes), seed=step)
    digest = weights_digest(variables)
    return exports.Export(
        step=step,
        config=config_lib.portable(config),
        weights_digest=digest,
        variables=variables,
        probe=probe,
        labels=labels_meta(labels or {}),
        about={"license": "apache-2.0", "facts": [], "figures": FIGURES, "model": "SODA"},
        examples=example_files.to_files(examples(), digest) if with_examples else {},
    )


def write(folder: pathlib.Path, *args: Any, **kwargs: Any) -> exports.Export:
    """Writes `export_of(...)` in float32, and returns it."""
    export = export_of(*args, **kwargs)
    exports.write(folder, export, "float32", card.render(export, "float32"))
    return export


def with_files(export: exports.Export, files: Mapping[str, bytes]) -> exports.Export:
    """The export with these files of examples in place of its own."""
    return dataclasses.replace(export, examples=dict(files))
