"""Layers that encoder and denoiser share: dropout keyed by example, stochastic depth, convolutions, transformer blocks.

Also what of a block's activations is kept for the gradient (`rematerialised`).

`train_ids` is the one switch between training and evaluation: an int32 [B] array (the position of each example in the
global batch) turns dropout and batch statistics on and keys the random masks; `None` means evaluation.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from soda_jax import rngs
from soda_jax.models import masks
from soda_jax.models.attention import Attention
from soda_jax.models.fixed_input import Channels

Dtype = Any
truncated_normal_init = nn.initializers.lecun_normal()  # truncated, variance 1 / fan_in: JAX's default

REMAT = ("none", "products", "blocks")


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


class Dropout(nn.Module):
    """Inverted dropout whose mask for an example depends only on the layer, the step and the example's id.

    Attributes:
      rate: probability of zeroing, in [0, 1).
      per_example: True draws one Bernoulli for the whole example (stochastic depth), False one for each element.
    """

    rate: float
    per_example: bool = False

    def __call__(self, x: jax.Array, train_ids: jax.Array | None) -> jax.Array:
        drop = self.drawn(train_ids)
        return x if drop is None else drop(x)

    def drawn(self, train_ids: jax.Array | None) -> masks.Drop | None:
        """What this layer drops, for an operation that drops it itself; None where nothing is."""
        if train_ids is None or self.rate == 0.0:
            return None
        # Each example's draw is keyed by its id: the mask is the same on any number of devices and in any microbatch.
        # The generator runs once for all layers, whose calls the compiler merges; a layer of its own has its place in
        # the model, by which a few integer operations tell it apart. A key for each layer would be folded with its
        # place, a hundred kernels of one number each on a TPU.
        stream = self.scope.rngs["dropout"]
        keys = masks.of_layer(rngs.per_example(stream.rng, train_ids, masks.key_words), stream.suffix)
        return masks.Drop(keys, self.rate, self.per_example)


class DropPath(nn.Module):
    """Stochastic depth: drops the residual branch of whole examples (SODA, Table 12: DropPath)."""

    rate: float

    def setup(self) -> None:
        self.drop = Dropout(self.rate, per_example=True)

    def __call__(self, x: jax.Array, train_ids: jax.Array | None) -> jax.Array:
        return self.drop(x, train_ids)

    def drawn(self, train_ids: jax.Array | None) -> masks.Drop | None:
        """As `Dropout.drawn`."""
        return self.drop.drawn(train_ids)


class Conv(nn.Module):
    """A convolution that keeps an image's sides, with a bias; its parameters are those of `flax.linen.Conv`.

    Attributes:
      features: channels of the result.
      size: side of the kernel.
      gain: factor of the result. It is applied to kernel and bias, where it costs nothing; behind them it would cost a
        pass over the result and one over its gradient.
      channels: which of the layer's input channels x holds; None: all. The results of all parts add up to the whole's.
      wide: whether the result is float32, as the sums inside are, whatever the dtype of input and kernel.
    """

    features: int
    size: int
    gain: float = 1.0
    dtype: Dtype = jnp.float32
    channels: Channels | None = None
    wide: bool = False
    kernel_init: nn.initializers.Initializer = truncated_normal_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, H, W, C] to [B, H, W, features]."""
        held = self.channels or Channels.all(x.shape[-1])
        shape = (self.size, self.size, held.total, self.features)
        kernel = self.gain * held.of(self.param("kernel", self.kernel_init, shape, jnp.float32), axis=2)
        bias = self.gain * self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        product = _wide_convolution if self.wide else _convolution
        y = product(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + bias.astype(y.dtype) if held.start == 0 else y  # of several parts the first one brings it


def _convolution(x: jax.Array, kernel: jax.Array, result: Dtype | None = None) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=layout, preferred_element_type=result
    )


@jax.custom_vjp
def _wide_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution with its result in float32. Its gradient is that of a convolution in the dtype of x."""
    whole = functools.partial(_convolution, result=jnp.float32)
    if x.dtype == jnp.float32:
        return whole(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cuda=_convolution_by_products, default=whole)


def _convolution_by_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution in float32 as the sum of a matrix product's shifted parts, one for each pixel of the kernel.

    cuDNN's convolutions give what they read: for a result in float32 XLA makes a float32 copy of x. Where channels
    become few, as in a last layer, what the product gives is smaller than this copy.
    """
    rows, columns = kernel.shape[:2]
    with jax.named_scope(jax.lax.conv_general_dilated_p.name):  # by which a program's kernels are told apart
        parts = jnp.einsum("bhwc,ijcf->bhwijf", x, kernel, preferred_element_type=jnp.float32)
    pads = [((side - 1) // 2, side // 2) for side in (rows, columns)]  # as "SAME" has them
    parts = jnp.pad(parts, ((0, 0), *pads, (0, 0), (0, 0), (0, 0)))
    height, width = x.shape[1:3]
    shifted = (parts[:, i : i + height, j : j + width, i, j] for i in range(rows) for j in range(columns))
    return functools.reduce(jnp.add, shifted)


def _wide_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _wide_convolution(x, kernel), (x, kernel)


def _wide_backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, _ = kept
    return jax.vjp(_convolution, *kept)[1](gradient.astype(x.dtype))


_wide_convolution.defvjp(_wide_forward, _wide_backward)


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
