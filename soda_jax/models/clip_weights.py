"""From the names and layouts that CLIP's weights are published under to the parameters of `ClipTower`.

OpenAI's names are OpenCLIP's too, below `visual.`; Hugging Face's are those of CLIPVisionModelWithProjection. What
else a file holds, such as the text tower, is left alone.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from soda_jax.models.clip import HEAD_DIM, VARIANTS, Variant


class Layout(NamedTuple):
    """How one publisher names a tower's tensors.

    Attributes:
      top: by our names, those outside the blocks.
      block: by our names, those of a block, behind `blocks` with its number from 0.
      joint: whether query, key and value are one tensor, in this order.
      transposed: whether the projection is stored [out, in], as PyTorch's linear layers are.
    """

    publisher: str
    blocks: str
    top: dict[str, str]
    block: dict[str, str]
    joint: bool
    transposed: bool


def _norm(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}/scale": f"{theirs}.weight", f"{ours}/bias": f"{theirs}.bias"}


def _linear(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}/kernel": f"{theirs}.weight", f"{ours}/bias": f"{theirs}.bias"}


_JOINT = ("query", "key", "value")
LAYOUTS = (
    Layout(
        publisher="OpenAI or OpenCLIP",
        blocks="visual.transformer.resblocks.{}.",
        top={
            "stem/kernel": "visual.conv1.weight",
            "class_token": "visual.class_embedding",
            "positions": "visual.positional_embedding",
            "projection/kernel": "visual.proj",
        }
        | _norm("norm_pre", "visual.ln_pre")
        | _norm("norm_post", "visual.ln_post"),
        block={f"attention/{part}/kernel": "attn.in_proj_weight" for part in _JOINT}
        | {f"attention/{part}/bias": "attn.in_proj_bias" for part in _JOINT}
        | _linear("attention/out", "attn.out_proj")
        | _norm("norm1", "ln_1")
        | _norm("norm2", "ln_2")
        | _linear("mlp_in", "mlp.c_fc")
        | _linear("mlp_out", "mlp.c_proj"),
        joint=True,
        transposed=False,
    ),
    Layout(
        publisher="Hugging Face",
        blocks="vision_model.encoder.layers.{}.",
        top={
            "stem/kernel": "vision_model.embeddings.patch_embedding.weight",
            "class_token": "vision_model.embeddings.class_embedding",
            "positions": "vision_model.embeddings.position_embedding.weight",
            "projection/kernel": "visual_projection.weight",
        }
        | _norm("norm_pre", "vision_model.pre_layrnorm")  # their spelling
        | _norm("norm_post", "vision_model.post_layernorm"),
        block=_linear("attention/query", "self_attn.q_proj")
        | _linear("attention/key", "self_attn.k_proj")
        | _linear("attention/value", "self_attn.v_proj")
        | _linear("attention/out", "self_attn.out_proj")
        | _norm("norm1", "layer_norm1")
        | _norm("norm2", "layer_norm2")
        | _linear("mlp_in", "mlp.fc1")
        | _linear("mlp_out", "mlp.fc2"),
        joint=False,
        transposed=True,
    ),
)


def tower_parameters(
    shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], np.ndarray]
) -> tuple[str, dict[str, Any]]:
    """The parameters of the image tower in published weights; only the tower's tensors are read.

    Args:
      shapes: of every tensor, by its published name.
      read: gives the tensor of a name.

    Returns:
      (variant, params): which of `clip.VARIANTS` it is, and the `params` of a `ClipTower`, as float32.

    Raises:
      ValueError: there is no tower of these variants, or a tensor of it is missing or has another shape.
    """
    layout = next((layout for layout in LAYOUTS if layout.top["stem/kernel"] in shapes), None)
    if layout is None:
        stems = " nor ".join(layout.top["stem/kernel"] for layout in LAYOUTS)
        first = ", ".join(sorted(shapes)[:3]) or "nothing"
        raise ValueError(f"there is no CLIP vision transformer: neither {stems}. It holds {first} ...")
    name = _variant(layout, shapes)
    stored = _stored_tensors(layout, VARIANTS[name])
    wrong = [
        f"{tensor} has the shape {shapes[tensor]}, not {shape}" if tensor in shapes else f"{tensor} is missing"
        for tensor, shape in {tensor: shape for tensor, shape, _ in stored.values()}.items()
        if shapes.get(tensor) != shape
    ]
    if wrong:
        raise ValueError(f"of {name}'s tensors {len(wrong)} are not as expected: {'; '.join(wrong[:3])}")
    params = {}
    for ours, (tensor, _, arrange) in stored.items():
        params[ours] = np.ascontiguousarray(arrange(read(tensor)), np.float32)
    return name, traverse_util.unflatten_dict(params, sep="/")


def _variant(layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Which variant these tensors are of, told by the patches', the projection's and the number of blocks."""
    stem, projection = shapes[layout.top["stem/kernel"]], shapes.get(layout.top["projection/kernel"], ())
    before = layout.blocks.partition("{}")[0]
    depth = len({tensor[len(before) :].partition(".")[0] for tensor in shapes if tensor.startswith(before)})
    vector_dim = (projection[0] if layout.transposed else projection[1]) if len(projection) == 2 else None
    for name, variant in VARIANTS.items():
        patch, width = variant.patch_size, variant.width
        if (stem, depth, vector_dim) == ((width, 3, patch, patch), variant.depth, variant.vector_dim):
            return name
    raise ValueError(
        f"a tower with patches {stem}, {depth} blocks and a projection {projection or 'that is missing'} is none of "
        f"{', '.join(VARIANTS)}"
    )


def _stored_tensors(layout: Layout, variant: Variant) -> dict[str, tuple[str, tuple[int, ...], Callable]]:
    """By our names: the published name, the published shape, and how our array is made of that tensor."""
    patch, width, depth, vector_dim, image_size = variant
    tokens = (image_size // patch) ** 2 + 1
    top_shapes = {
        "stem/kernel": (width, 3, patch, patch),
        "class_token": (width,),
        "positions": (tokens, width),
        "projection/kernel": (vector_dim, width) if layout.transposed else (width, vector_dim),
    }
    top_arranged = {
        "stem/kernel": lambda x: x.transpose(2, 3, 1, 0),
        "projection/kernel": (lambda x: x.T) if layout.transposed else (lambda x: x),
    }
    found = {
        ours: (theirs, top_shapes.get(ours, (width,)), top_arranged.get(ours, lambda x: x))
        for ours, theirs in layout.top.items()
    }
    for index in range(depth):
        for ours, theirs in layout.block.items():
            shape, arrange = _in_block(ours, width, layout.joint)
            found[f"block{index + 1}/{ours}"] = (layout.blocks.format(index) + theirs, shape, arrange)
    return found


def _in_block(ours: str, width: int, joint: bool) -> tuple[tuple[int, ...], Callable]:
    """(published shape, how our array is made of it) of one parameter of a block."""
    heads = width // HEAD_DIM
    *_, module, leaf = ours.split("/")
    rows = 4 * width if module == "mlp_in" else width
    columns = 4 * width if module == "mlp_out" else width
    if module in _JOINT:
        part = _JOINT.index(module) if joint else 0
        rows *= len(_JOINT) if joint else 1
        cut = slice(part * width, (part + 1) * width)
        if leaf == "bias":
            return (rows,), lambda x: x[cut].reshape(heads, HEAD_DIM)
        return (rows, columns), lambda x: x[cut].T.reshape(width, heads, HEAD_DIM)
    if leaf != "kernel":
        return (rows,), lambda x: x
    if module == "out":
        return (rows, columns), lambda x: x.T.reshape(heads, HEAD_DIM, width)
    return (rows, columns), lambda x: x.T
