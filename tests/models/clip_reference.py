"""CLIP's image tower in NumPy, from OpenAI's names, for tests; and a tiny variant of it with weights at random."""

import numpy as np
from scipy import special

from soda_jax.models import clip

# Two blocks of two heads, three patches a side.
TINY = clip.Variant(patch_size=4, width=128, depth=2, vector_dim=24, image_size=12)


def weights(variant=TINY, seed=0):
    """OpenAI's names -> float32 arrays, none of which is zero."""
    rng = np.random.default_rng(seed)
    patch, width, depth, dim, image_size = variant

    def draw(*shape, scale=None, mean=0.0):
        return (mean + (scale or shape[-1] ** -0.5) * rng.standard_normal(shape)).astype(np.float32)

    def norm(name):
        return {f"{name}.weight": draw(width, scale=0.1, mean=1.0), f"{name}.bias": draw(width, scale=0.1)}

    def linear(name, rows, columns, dot="."):
        return {f"{name}{dot}weight": draw(rows, columns), f"{name}{dot}bias": draw(rows, scale=0.1)}

    found = {
        "conv1.weight": draw(width, 3, patch, patch, scale=(3 * patch**2) ** -0.5),
        "class_embedding": draw(width, scale=1.0),
        "positional_embedding": draw((image_size // patch) ** 2 + 1, width, scale=1.0),
        "proj": draw(width, dim),
        **norm("ln_pre"),
        **norm("ln_post"),
    }
    for index in range(depth):
        block = f"transformer.resblocks.{index}"
        found |= linear(f"{block}.attn.in_proj", 3 * width, width, dot="_")
        found |= linear(f"{block}.attn.out_proj", width, width)
        found |= norm(f"{block}.ln_1") | norm(f"{block}.ln_2")
        found |= linear(f"{block}.mlp.c_fc", 4 * width, width)
        found |= linear(f"{block}.mlp.c_proj", width, 4 * width)
    return {f"visual.{name}": value for name, value in found.items()}


def hugging_face(found):
    """The same weights by the names of CLIPVisionModelWithProjection."""
    top = {
        "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "class_embedding": "vision_model.embeddings.class_embedding",
        "positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "ln_pre.weight": "vision_model.pre_layrnorm.weight",
        "ln_pre.bias": "vision_model.pre_layrnorm.bias",
        "ln_post.weight": "vision_model.post_layernorm.weight",
        "ln_post.bias": "vision_model.post_layernorm.bias",
    }
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    renamed = {}
    for name, value in ((name.removeprefix("visual."), value) for name, value in found.items()):
        if name == "proj":
            renamed["visual_projection.weight"] = value.T.copy()
        elif name in top:
            renamed[top[name]] = value
        else:
            _, _, index, rest = name.split(".", 3)
            layer = f"vision_model.encoder.layers.{index}"
            if rest.startswith("attn.in_proj_"):
                for letter, part in zip("qkv", np.split(value, 3), strict=True):
                    renamed[f"{layer}.self_attn.{letter}_proj.{rest.removeprefix('attn.in_proj_')}"] = part.copy()
            elif rest.startswith("attn.out_proj."):
                renamed[f"{layer}.self_attn.{rest.removeprefix('attn.')}"] = value
            else:
                module, _, leaf = rest.rpartition(".")
                renamed[f"{layer}.{parts[module]}.{leaf}"] = value
    return renamed


def vector(found, pixels, activation):
    """The projected vectors [B, d] of normalised images [B, s, s, 3], in float64."""
    w = {name.removeprefix("visual."): value.astype(np.float64) for name, value in found.items()}
    kernel = w["conv1.weight"]
    width, _, patch, _ = kernel.shape
    count, side, _, _ = pixels.shape
    grid = side // patch

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def act(x):
        gate = special.expit(1.702 * x) if activation == "quick_gelu" else special.ndtr(x)
        return x * gate

    patches = pixels.astype(np.float64).reshape(count, grid, patch, grid, patch, 3).transpose(0, 1, 3, 5, 2, 4)
    tokens = patches.reshape(count, grid * grid, -1) @ kernel.reshape(width, -1).T
    token = np.broadcast_to(w["class_embedding"], (count, 1, width))
    x = norm(np.concatenate([token, tokens], 1) + w["positional_embedding"], "ln_pre")
    heads = width // 64
    for index in range(sum(name.endswith("ln_1.weight") for name in w)):
        block = f"transformer.resblocks.{index}"
        joint = norm(x, f"{block}.ln_1") @ w[f"{block}.attn.in_proj_weight"].T + w[f"{block}.attn.in_proj_bias"]
        q, k, v = (part.reshape(count, -1, heads, 64).transpose(0, 2, 1, 3) for part in np.split(joint, 3, -1))
        share = special.softmax(q @ k.transpose(0, 1, 3, 2) / 8.0, axis=-1)
        attended = (share @ v).transpose(0, 2, 1, 3).reshape(count, -1, width)
        x = x + attended @ w[f"{block}.attn.out_proj.weight"].T + w[f"{block}.attn.out_proj.bias"]
        hidden = act(norm(x, f"{block}.ln_2") @ w[f"{block}.mlp.c_fc.weight"].T + w[f"{block}.mlp.c_fc.bias"])
        x = x + hidden @ w[f"{block}.mlp.c_proj.weight"].T + w[f"{block}.mlp.c_proj.bias"]
    return norm(x[:, 0], "ln_post") @ w["proj"]
