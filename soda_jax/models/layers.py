"""Layers that encoder and denoiser share: dropout keyed by example, stochastic depth, normalisation, attention.

Also what of a block's activations is kept for the gradient (`rematerialised`), and which program computes attention.

`train_ids` is the one switch between training and evaluation: an int32 [B] array (the position of each example in the
global batch) turns dropout and batch statistics on and keys the random masks; `None` means evaluation.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging
from einops import rearrange

from soda_jax import rngs

Dtype = Any
truncated_normal_init = nn.initializers.lecun_normal()  # truncated, variance 1 / fan_in: JAX's default

REMAT = ("none", "products", "blocks")
ATTENTION = ("auto", "xla", "cudnn")


def rematerialised(block: type[nn.Module], remat: str) -> type[nn.Module]:
    """`block`, keeping less of its activations for the gradient; parameters, values and gradients stay the same.

    Args:
      remat: "none" keeps everything that the gradient reads; "products" keeps what convolutions and matrix products
        give and computes the cheap rest (norms, activations, dropout, attention's weights) again; "blocks" keeps the
        block's input alone and computes the whole block again, a third more work in training.
    """
    if remat == "none":
        return block
    return nn.remat(block, policy=_is_product if remat == "products" else None)


def _is_product(primitive: Any, *_: Any, **params: Any) -> bool:
    if primitive is jax.lax.dot_general_p:
        return not any(params["dimension_numbers"][1])  # products of a batch are attention's, [B, heads, N, K]
    return primitive is jax.lax.conv_general_dilated_p


def batch_axes() -> tuple[str, ...] | None:
    """The axes of devices over which the batch at hand is split, where a device sees its own part of it alone.

    A norm that is given them takes the whole batch's statistics in training. None under plain `jit`, where arrays are
    whole whichever devices hold them; under `jax.shard_map` all of its axes, as training splits nothing but batches so.
    """
    return jax.sharding.get_abstract_mesh().manual_axes or None


def attention_implementation(choice: str, dtype: Dtype, head_dim: int) -> str:
    """What computes attention, "xla" or "cudnn", where `choice` is one of `ATTENTION`.

    "auto" takes cuDNN's fused attention, whose memory does not grow with the square of the length, wherever it works:
    on NVIDIA GPUs from Ampere on, in 16 bits, with heads whose width is a multiple of 8 up to 128.
    """
    if choice != "auto":
        return choice
    sixteen_bits = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    if jax.default_backend() != "gpu" or not sixteen_bits or head_dim % 8 or head_dim > 128:
        return "xla"
    capability = re.fullmatch(r"(\d+)\.\d+", str(getattr(jax.local_devices()[0], "compute_capability", "")))
    if capability is None or int(capability[1]) < 8:  # AMD's have no such number
        return "xla"
    return "cudnn" if _cudnn_works(jnp.dtype(dtype).name, head_dim) else "xla"


@functools.cache
def _cudnn_works(dtype: str, head_dim: int) -> bool:
    """Whether cuDNN's attention and its gradient compile here: that depends on its version too."""

    def attend(x: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(x, x, x, implementation="cudnn").astype(jnp.float32).sum()

    try:
        jax.jit(jax.grad(attend)).lower(jax.ShapeDtypeStruct((1, 64, 1, head_dim), dtype)).compile()
    except Exception as error:  # of several types, by version
        logging.warning("cuDNN's attention does not work here, so XLA's is used: %s", str(error).splitlines()[0])
        return False
    return True


class Dropout(nn.Module):
    """Inverted dropout whose mask for an example depends only on the layer, the step and the example's id.

    Attributes:
      rate: probability of zeroing, in [0, 1).
      per_example: True draws one Bernoulli for the whole example (stochastic depth), False one for each element.
    """

    rate: float
    per_example: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train_ids: jax.Array | None) -> jax.Array:
        if train_ids is None or self.rate == 0.0:
            return x
        # Each example's draw is keyed by its id: the mask is the same on any number of devices and in any microbatch.
        shape = (1,) * (x.ndim - 1) if self.per_example else x.shape[1:]
        keep_rate = 1.0 - self.rate
        keep = rngs.per_example(self.make_rng("dropout"), train_ids, lambda key: _draw_mask(key, keep_rate, shape))
        # Divided by the rate of keeping, so that the expectation is x and evaluation needs no factor.
        return jnp.where(keep, x / keep_rate, jnp.zeros_like(x))


def _draw_mask(key: jax.Array, keep_rate: float, shape: tuple[int, ...]) -> jax.Array:
    """True with probability `keep_rate`, to 1 in 65,536.

    From 16 bits an element: drawing them is a good part of a training step, and `bernoulli` takes twice the time.
    """
    size = math.prod(shape)
    words = jax.random.bits(key, ((size + 1) // 2,), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size]
    return halves.reshape(shape).astype(jnp.int32) < round(keep_rate * 65536)


class DropPath(nn.Module):
    """Stochastic depth: drops the residual branch of whole examples (SODA, Table 12: DropPath)."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train_ids: jax.Array | None) -> jax.Array:
        return Dropout(self.rate, per_example=True, name="drop")(x, train_ids)


class GroupNorm(nn.Module):
    """GroupNorm with `num_groups` groups, or the largest divisor of both it and the channel count; in float32."""

    num_groups: int = 32
    use_affine: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = nn.GroupNorm(
            num_groups=math.gcd(self.num_groups, x.shape[-1]),
            epsilon=1e-5,
            use_bias=self.use_affine,
            use_scale=self.use_affine,
            dtype=self.dtype,
            name="norm",
        )
        return norm(x)


class Attention(nn.Module):
    """Multi-head attention of `x` [B, N, C] on `context` [B, K, C'] (itself by default).

    Attributes:
      head_dim: width of one head; C must be a multiple of it.
      context_bias: False makes an all-zero context contribute exactly zero.
      implementation: one of `ATTENTION`.
    """

    head_dim: int
    context_bias: bool = True
    implementation: str = "xla"
    kernel_init: Any = truncated_normal_init
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array | None = None, context_mask: jax.Array | None = None
    ) -> jax.Array:
        channels = x.shape[-1]
        if channels % self.head_dim:
            raise ValueError(f"attention over {channels} channels does not divide into heads of {self.head_dim}")
        heads = channels // self.head_dim
        context = x if context is None else context

        def project(inputs: jax.Array, name: str, use_bias: bool) -> jax.Array:
            return nn.DenseGeneral(
                (heads, self.head_dim),
                use_bias=use_bias,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=name,
            )(inputs)

        # softmax(Q K^T / sqrt(head_dim)) V. With a zero context V is zero without its bias, whatever the weights are.
        query = project(x, "query", True)
        key = project(context, "key", self.context_bias)
        value = project(context, "value", self.context_bias)
        mask = None if context_mask is None else rearrange(context_mask, "b k -> b 1 1 k")
        implementation = attention_implementation(self.implementation, query.dtype, self.head_dim)
        attended = jax.nn.dot_product_attention(query, key, value, mask=mask, implementation=implementation)
        return nn.DenseGeneral(
            channels,
            axis=(-2, -1),
            use_bias=self.context_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="out",
        )(attended)


class TransformerBlock(nn.Module):
    """Pre-LayerNorm transformer block on tokens [B, N, C], with stochastic depth on both branches.

    Attributes:
      activation: of the MLP.
      epsilon: what LayerNorm adds to the variance.
    """

    num_heads: int
    mlp_multiplier: int = 4
    drop_path: float = 0.0
    kernel_init: Any = nn.initializers.xavier_uniform()
    attention: str = "xla"
    activation: Callable[[jax.Array], jax.Array] = nn.gelu
    epsilon: float = 1e-6
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, train_ids: jax.Array | None = None, token_mask: jax.Array | None = None
    ) -> jax.Array:
        # x + attention(norm(x)), then x + MLP(norm(x)): normalised before each branch, as in ViT.
        width = x.shape[-1]
        attention = Attention(
            width // self.num_heads,
            implementation=self.attention,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="attention",
        )
        y = attention(nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm1")(x), context_mask=token_mask)
        x = x + DropPath(self.drop_path, name="drop_path1")(y, train_ids)
        y = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm2")(x)
        y = nn.Dense(
            width * self.mlp_multiplier,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="mlp_in",
        )(y)
        y = nn.Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name="mlp_out")(self.activation(y))
        return x + DropPath(self.drop_path, name="drop_path2")(y, train_ids)
