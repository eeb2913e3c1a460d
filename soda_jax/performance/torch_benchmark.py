"""Training steps beside those of a PyTorch model of the same size and layout (`torch_reference`), in turn."""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax.config import ConfigError, parse_encoder_name
from soda_jax.latents.sections import section_sizes
from soda_jax.models.capabilities import LATENT, NOISE, can
from soda_jax.parallel import sharding
from soda_jax.performance.plan import probe_labels
from soda_jax.performance.step_benchmark import Bench, stepper, synthetic_batch
from soda_jax.performance.timing import in_turn, ratio, repeated, warm_up

_SCRIPT = pathlib.Path(__file__).with_name("torch_reference.py")


class Reference:
    """PyTorch's training steps in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], answer: dict[str, Any]):
        self._process = process
        self.torch, self.layout, self.parameters = (answer[key] for key in ("torch", "layout", "parameters"))

    def seconds(self, steps: int) -> float:
        """Seconds of `steps` training steps."""
        return float(_ask(self._process, str(steps)))


@contextlib.contextmanager
def reference(python: str, specification: dict[str, Any]) -> Iterator[Reference]:
    """Starts the reference in `python`, which must have PyTorch.

    Raises:
      ValueError: it does not start; the message is its own.
    """
    try:
        process = subprocess.Popen(
            [python, str(_SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except OSError as error:
        raise ValueError(f"--torch_python={python}: {error}") from error
    with process:
        try:
            yield Reference(process, json.loads(_ask(process, json.dumps(specification))))
        finally:
            process.kill()


def _ask(process: subprocess.Popen[str], line: str) -> str:
    try:
        print(line, file=process.stdin, flush=True)
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        said = process.stderr.read().strip().splitlines() or ["it ended without a word"]
        raise ValueError(f"the PyTorch reference ended: {said[-1]} (--torch_python names a Python that has PyTorch)")
    return answer


def specification(config: ConfigDict) -> dict[str, Any]:
    """What `torch_reference` builds and trains, as JSON data.

    Raises:
      ConfigError: a model that it does not know.
    """
    family, depth, width = parse_encoder_name(config.model.encoder.name)
    encoder, denoiser = config.model.encoder, config.model.denoiser
    known = family == "resnet" and depth in (18, 34) and width == 1 and encoder.small_stem and encoder.norm == "batch"
    modulation = config.model.modulation
    plain = modulation.kind == "layer" and modulation.use_scale and denoiser.patch_size == 1
    denoises = all(can(build.model(config), capability) for capability in (NOISE, LATENT))
    if not (denoises and known and plain and config.data.num_sources == 1 and build.pose_encoding(config) is None):
        raise ConfigError(
            "the PyTorch reference is SODA (config.model.family) with a resnet18 or resnet34, "
            "config.model.encoder.small_stem=True and BatchNorm, one source, config.model.modulation.kind='layer' with "
            "scales, config.model.denoiser.patch_size=1 and no poses; use such a config"
        )
    unet = build.model(config).denoiser
    fields = ("channels", "time_dim", "head_dim", "norm_groups", "norm_out_groups", "dropout")
    return {field: getattr(denoiser, field) for field in fields} | {
        "depth": depth,
        "base_features": encoder.base_features,
        "drop_path": encoder.drop_path,
        "latent_dim": config.model.latent_dim,
        "latent_dropout": config.model.latent_dropout,
        "latent_mask_rate": config.diffusion.latent_mask_rate,
        "layer_mask_rate": config.diffusion.layer_mask_rate,
        "blocks": [dataclasses.asdict(block) for block in unet.layout()],
        "sections": section_sizes(config.model.latent_dim, unet.num_sections).tolist(),
        "embed_sections": unet.embed_sections,
        "abar": build.diffusion(config).abar.tolist(),
        "batch": config.train.batch_size,
        "resolution": config.data.resolution,
        "source_resolution": config.data.source_resolution,
        "source_noise": config.data.source_noise,
        "dtype": config.model.dtype,
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "optim": {key: config.optim[key] for key in ("learning_rate", "b1", "b2", "weight_decay", "clip_norm")},
    }


def compare(bench: Bench, python: str) -> dict[str, Any]:
    """Measures both.

    Args:
      python: that has PyTorch.

    Returns:
      `rows`, `ratio` of images a second over PyTorch's, `parameters` of both, and `torch`, its
      version and the memory layout that it was faster with.
    """
    config, mesh = bench.config, bench.mesh
    train_step = build.train_step(config, probe_labels(config), mesh)
    batch = sharding.put_whole_batch(synthetic_batch(config, mesh, config.train.batch_size), mesh)
    step = stepper(train_step, mesh, batch)
    with reference(python, specification(config)) as theirs:
        compiled = {"soda_jax": warm_up(step)}
        timings = in_turn({"soda_jax": repeated(step), "PyTorch": theirs.seconds}, bench.repeats, bench.seconds)
        size, flops = config.train.batch_size, bench.flops["train"]
        rows = [
            bench.row(f"{name}, {config.model.dtype}", size, timing, compiled.get(name, 0.0), flops, None)
            for name, timing in timings.items()
        ]
        params = jax.tree.leaves(bench.inference.abstract_variables()["params"])
        return {
            "rows": rows,
            "ratio": ratio(timings["PyTorch"], timings["soda_jax"]),
            "parameters": {"soda_jax": sum(leaf.size for leaf in params), "PyTorch": theirs.parameters},
            "torch": f"{theirs.torch}, eager, {theirs.layout}",
        }
