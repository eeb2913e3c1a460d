"""What a config builds: parameters, the latent's sections and FLOPs, without allocating any weight."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict
from tabulate import tabulate

from soda_jax.config import validate
from soda_jax.inference.engine import Inference
from soda_jax.latents.sections import section_sizes
from soda_jax.models.capabilities import GUIDANCE, LATENT, NOISE, SOURCE, can
from soda_jax.models.families import FAMILIES
from soda_jax.models.unet import ModulatedBlocks
from soda_jax.parallel import sharding

PARTS = (
    "encoder trunk",
    "projection",
    "denoiser without modulation",
    "modulation by time",
    "modulation by latent",
    "aggregator",
)
POSE_PART = "modulation by pose"  # of models that take poses as vectors; a grid widens the layers that read it
DENOISER_PARTS = (*PARTS[2:5], POSE_PART)
PAPER_DATASET = "imagenet2012"  # that the paper counts the parameters of
_Abstract = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)


@dataclasses.dataclass(frozen=True)
class Section:
    """One section of the latent: its dimensions [start, stop) and the UNet blocks that it drives."""

    index: int
    start: int
    stop: int
    resolutions: tuple[int, ...]
    blocks: tuple[str, ...]


def count_parameters(params: Mapping[str, Any], time_dim: int) -> dict[str, int]:
    """Number of parameters of each of `PARTS`, and of `POSE_PART` where the model has it.

    Args:
      params: the parameters of a model, arrays or only their shapes. A decoder counts as a denoiser does.
      time_dim: width of the timestep's embedding; it splits the joint projection of `concat` between time and latent.
    """
    counts = dict.fromkeys(PARTS, 0)
    for path, leaf in traverse_util.flatten_dict(params).items():
        size = int(np.prod(leaf.shape))
        if path[0] == "encoder":
            counts["projection" if path[1] == "projection" else "encoder trunk"] += size
        elif path[0] == "projection":  # of a frozen encoder's vector
            counts["projection"] += size
        elif path[0] == "aggregator":
            counts["aggregator"] += size
        elif "pose" in path or path[1].startswith("pose_mlp"):
            counts[POSE_PART] = counts.get(POSE_PART, 0) + size
        elif "latent" in path or path[1] == "latent_embedding" or path[1].endswith("_cross"):
            counts["modulation by latent"] += size
        elif "joint" in path:
            by_latent = (leaf.shape[0] - time_dim) * leaf.shape[1] if path[-1] == "kernel" else 0
            counts["modulation by latent"] += by_latent
            counts["modulation by time"] += size - by_latent
        else:
            counts["modulation by time" if "modulation" in path else "denoiser without modulation"] += size
    return counts


def latent_sections(generator: ModulatedBlocks, latent_dim: int) -> list[Section]:
    """The sections of the latent, innermost first, as `generator.layout()` assigns them to blocks."""
    bounds = np.concatenate([[0], np.cumsum(section_sizes(latent_dim, generator.num_sections))])
    layout = generator.layout()
    sections = []
    for index in range(generator.num_sections):
        driven = [spec for spec in layout if spec.section == index]
        resolutions = tuple(sorted({spec.resolution for spec in driven}))
        blocks = tuple(spec.name for spec in driven)
        sections.append(Section(index, int(bounds[index]), int(bounds[index + 1]), resolutions, blocks))
    return sections


def lower(function: Callable[..., Any], *arguments: Any) -> jax.stages.Lowered:
    """Traces `function` for arguments that may be only shapes, without compiling or running it.

    For a CPU, wherever there is one: the plugins of GPUs and TPUs analyse no cost.
    """
    with jax.default_device(sharding.host_device()):
        return jax.jit(function).lower(*arguments)


def flops_of(lowered: jax.stages.Lowered) -> float:
    """Floating-point operations by XLA's cost analysis, a multiply-add counting two."""
    return float(lowered.cost_analysis()["flops"])


def counted_model(config: ConfigDict) -> tuple[nn.Module, Any]:
    """The model whose FLOPs stand for those of `config`, and its variables' shapes.

    It is the same function without rematerialisation or a fused attention: what is computed again counts as no work,
    and the operations inside one fused program would not be seen.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.encoder.remat = config.model.denoiser.remat = "none"
        config.model.attention = "xla"
    inference = Inference(config, sharding.make_mesh(jax.devices()[:1]))
    # Without their placement: a cost is that of the whole, however many devices share it.
    return inference.model, jax.tree.map(lambda x: _Abstract(x.shape, dtype=x.dtype), inference.abstract_variables())


def model_flops(model: nn.Module, variables: Any, data: ConfigDict) -> dict[str, float]:
    """FLOPs of "encode" (one source view), "train" (one example, forward and backward) and "generate" (one call).

    What is called is the denoiser, or the decoder. A model without an encoder has no "encode".

    For "train" see `train_flops`, for "train_mean" `mean_train_flops`; it is missing where steps are all alike.

    Args:
      model: of `counted_model`, if no recomputation is to count.
      variables: the model's variables or their shapes.
      data: `config.data`: the resolutions and the number of source views.
    """

    def encode(variables: Any, source: jax.Array) -> jax.Array:
        return model.apply(variables, source, jnp.ones(source.shape[:2], bool), method="encode")[0]

    views, *images = _one_example(model, data)
    found = {"train": train_flops(model, variables, data)}
    if _fewest_sources(data) < data.num_sources:
        found["train_mean"] = mean_train_flops(model, variables, data, found["train"])
    if can(model, LATENT):
        encoded = lower(encode, variables, _Abstract((1, 1, *views.shape[2:])))
        shape = encoded.out_info.shape
        z = _Abstract(shape[:1] + shape[2:] if model.keeps_sources else shape, dtype=encoded.out_info.dtype)
        found["encode"] = flops_of(encoded)
    else:
        z = jax.eval_shape(functools.partial(_guide, model), variables, views)
    found["generate"] = flops_of(lower(functools.partial(_generated, model), variables, z, *images))
    return found


def _guide(model: nn.Module, variables: Any, source: Any) -> Any:
    """What a model without latents takes in their place: the source as its denoiser sees it, or nothing."""
    if not can(model, SOURCE):
        return None
    return model.apply(variables, source, jnp.ones(source.shape[:2], bool), method="guide")


def _generated(model: nn.Module, variables: Any, z: jax.Array, x_t: Any, t: Any, mask: Any, **options: Any) -> Any:
    """One call of the network that makes images: of a decoder, which takes no x_t and t, or of a denoiser."""
    if can(model, NOISE):
        return model.apply(variables, x_t, t, z, mask, **options, method="denoise")[0]
    return model.apply(variables, z, mask, **options, method="decode")[0]


def mean_train_flops(model: nn.Module, variables: Any, data: ConfigDict, most: float) -> float:
    """`train_flops` on average over the numbers of sources that steps show, of which each is as likely.

    It is the middle between the fewest and the most, since each further source costs the same: its encoding. Attention
    between sources, which grows faster, is less than a millionth of it.

    Args:
      most: `train_flops` of all sources.
    """
    fewest = _fewest_sources(data)
    return most if fewest == data.num_sources else (most + train_flops(model, variables, data, fewest)) / 2


def _fewest_sources(data: ConfigDict) -> int:
    return data.min_sources or data.num_sources


def train_flops(model: nn.Module, variables: Any, data: ConfigDict, num_sources: int | None = None) -> float:
    """FLOPs of training on one example, with all its views, and of the gradient of every parameter.

    The optimizer's update, which a batch shares, is left out, and so is the making of ray grids. Arguments as in
    `model_flops`.

    Args:
      num_sources: that it shows; None: `data.num_sources`, all.
    """

    def squared_output(params: Any, stats: Any, source: Any, x_t: Any, t: Any, mask: Any, key: Any) -> jax.Array:
        state, rngs = {"params": params, "batch_stats": stats}, {"dropout": key}
        ids, present = jnp.zeros((1,), jnp.int32), jnp.ones(source.shape[:2], bool)
        if can(model, LATENT):
            (z, _), _ = model.apply(state, source, present, ids, method="encode", rngs=rngs, mutable=["batch_stats"])
        else:
            z = _guide(model, state, source)
        return jnp.mean(jnp.square(_generated(model, state, z, x_t, t, mask, train_ids=ids, rngs=rngs) - x_t))

    key = jax.eval_shape(lambda: jax.random.key(0))
    params, stats = variables["params"], variables["batch_stats"]
    return flops_of(lower(jax.grad(squared_output), params, stats, *_one_example(model, data, num_sources), key))


def _one_example(
    model: nn.Module, data: ConfigDict, num_sources: int | None = None
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes of one example's (source views, x_t, t, section mask)."""
    return (
        _Abstract((1, num_sources or data.num_sources, data.source_resolution, data.source_resolution, 3)),
        _Abstract((1, data.resolution, data.resolution, 3)),
        _Abstract((1,), dtype=jnp.int32),
        _Abstract((1, model.num_sections)),
    )


def parameter_table(counts: Mapping[str, int], paper: Mapping[str, int], generator: str = "denoiser") -> str:
    """Formats `count_parameters`, with the paper's figures in millions beside ours where there are any."""
    rows = {name: counts[name] for name in PARTS[:5]}
    rows |= {name: counts[name] for name in (POSE_PART,) if name in counts}
    rows["denoiser, modulation included"] = sum(counts.get(name, 0) for name in DENOISER_PARTS)
    rows |= {"aggregator": counts["aggregator"], "total": sum(counts.values())}
    table = [
        [name.replace("denoiser", generator), f"{count:,}", f"{count / 1e6:.1f}M"]
        for name, count in rows.items()
        if count or generator == "denoiser" or name not in counts
    ]
    headers = ["parameters", "count", "here"]
    if paper:
        headers.append("the paper's")
        table = [[*row, f"{paper[row[0]]}M" if row[0] in paper else ""] for row in table]
    return tabulate(table, headers, colalign=("left", *["right"] * (len(headers) - 1)), disable_numparse=True)


def section_table(generator: ModulatedBlocks, latent_dim: int) -> str:
    """Formats `latent_sections`; a sentence where no block sees a section of its own."""
    sections = latent_sections(generator, latent_dim)
    if not generator.sectioned:
        how = {
            "cross_attention": "attention layers attend to its tokens",
            "broadcast": "it is tiled and concatenated to the input",
        }.get(generator.modulation, "every block sees all of it")
        return f"modulation {generator.modulation!r}: no block has a section of its own; {how}"
    table = [
        [
            section.index,
            f"{section.start}-{section.stop - 1}",
            section.stop - section.start,
            ", ".join(map(str, section.resolutions)),
            ", ".join(section.blocks),
        ]
        for section in sections
    ]
    return tabulate(table, ["section", "dims", "width", "pixels", "blocks it drives (0 is the innermost)"])


def flops_table(flops: Mapping[str, float], config: ConfigDict, denoises: bool = True, guides: bool = True) -> str:
    """Formats `model_flops` of a model that denoises and takes guidance, or not.

    A guided sampling step is two calls of the denoiser.
    """
    views, source, target = config.data.num_sources, config.data.source_resolution, config.data.resolution
    table = [[f"encode one source view, {source} px", flops["encode"]]] if "encode" in flops else []
    table.append([f"train on one example, {views} source view(s), forward and backward", flops["train"]])
    if "train_mean" in flops:
        name = f"the same on average over steps, {config.data.min_sources} to {views} source views"
        table.append([name, flops["train_mean"]])
    if denoises:
        steps, guided = config.sampling.num_steps, guides and config.sampling.guidance_scale != 1.0
        step = flops["generate"] * (2 if guided else 1)
        calls = "guided: two denoiser evaluations" if guided else "unguided: one denoiser evaluation"
        table += [
            [f"one sampling step of one {target} px image ({calls})", step],
            [f"one {target} px image in {steps} sampling steps", step * steps],
        ]
    else:
        table.append([f"decode one {target} px image", flops["generate"]])
    rows = [[name, f"{value / 1e9:,.2f}" if value >= 1e9 else f"{value / 1e9:.3g}"] for name, value in table]
    return tabulate(rows, ["per image", "GFLOPs"], colalign=("left", "right"), disable_numparse=True)


def describe(config: ConfigDict) -> str:
    """The whole report; ConfigError if the config cannot run."""
    validate(config, reads_data=False)
    model, variables = counted_model(config)
    counts = count_parameters(variables["params"], config.model.denoiser.time_dim)
    generator = "denoiser" if can(model, NOISE) else "decoder"
    paper = FAMILIES[config.model.family].paper_millions if config.data.name == PAPER_DATASET else {}
    no_latent = f"{model.title} has no encoder and no latent: the denoiser's blocks are modulated by the timestep alone"
    return "\n\n".join(
        (
            parameter_table(counts, paper, generator),
            section_table(model.generator, config.model.latent_dim) if can(model, LATENT) else no_latent,
            flops_table(model_flops(model, variables, config.data), config, can(model, NOISE), can(model, GUIDANCE)),
            "FLOPs by XLA's cost analysis of the unoptimised program; a multiply-add counts two.",
        )
    )
