"""Multi-head attention, and which program computes it."""

import functools
import math
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging
from einops import rearrange

ATTENTION = ("auto", "xla", "cudnn")
# What `attention_implementation` says where the platform that is compiled for has to choose.
BY_PLATFORM = "by platform"


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, choice: str) -> jax.Array:
    """softmax(Q K^T / sqrt(head_dim)) V, by what `attention_implementation` finds for `choice`.

    Args:
      query: [B, N, heads, head_dim]; key, value: [B, K, heads, head_dim].
      mask: bool, broadcast against [B, heads, N, K]; False hides a key. None hides none.
    """

    def by(implementation: str) -> Any:
        return functools.partial(jax.nn.dot_product_attention, mask=mask, implementation=implementation)

    found = attention_implementation(choice, query.dtype, query.shape[-1])
    if found == BY_PLATFORM:
        return jax.lax.platform_dependent(query, key, value, cuda=by("cudnn"), default=by("xla"))
    return by(found)(query, key, value)


def attention_implementation(choice: str, dtype: Any, head_dim: int) -> str:
    """What computes attention, "xla", "cudnn" or `BY_PLATFORM`, where `choice` is one of `ATTENTION`.

    "auto" takes cuDNN's fused attention, whose memory does not grow with the square of the length, wherever it works:
    on NVIDIA GPUs from Ampere on, in 16 bits, with heads whose width is a multiple of 8 up to 128. On a machine without
    an accelerator it is `BY_PLATFORM` where cuDNN is installed: a program that is compiled there for a GPU is the one
    that the GPU's machine would compile.
    """
    if choice != "auto":
        return choice
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16) or head_dim % 8 or head_dim > 128:
        return "xla"
    if jax.default_backend() == "cpu" and _cudnn_is_installed():
        return BY_PLATFORM
    if jax.default_backend() != "gpu":
        return "xla"
    capability = re.fullmatch(r"(\d+)\.\d+", str(getattr(jax.local_devices()[0], "compute_capability", "")))
    if capability is None or int(capability[1]) < 8:  # AMD's have no such number
        return "xla"
    return "cudnn" if _cudnn_works(jnp.dtype(dtype).name, head_dim) else "xla"


def _fused(x: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(x, x, x, implementation="cudnn").astype(jnp.float32).sum()


@functools.cache
def _cudnn_is_installed() -> bool:
    """Whether cuDNN's library is found, without which its attention cannot even be traced."""
    try:
        jax.eval_shape(_fused, jax.ShapeDtypeStruct((1, 64, 1, 64), jnp.bfloat16))
    except Exception:  # of several types, by version
        return False
    return True


@functools.cache
def _cudnn_works(dtype: str, head_dim: int) -> bool:
    """Whether cuDNN's attention and its gradient compile here: that depends on its version too."""
    try:
        jax.jit(jax.grad(_fused)).lower(jax.ShapeDtypeStruct((1, 64, 1, head_dim), dtype)).compile()
    except Exception as error:  # of several types, by version
        logging.warning("cuDNN's attention does not work here, so XLA's is used: %s", str(error).splitlines()[0])
        return False
    return True


class Attention(nn.Module):
    """Multi-head attention of `x` [B, N, C] on `context` [B, K, C'] (itself by default).

    Attributes:
      head_dim: width of one head; C must be a multiple of it.
      context_bias: False makes an all-zero context contribute exactly zero.
      implementation: one of `ATTENTION`.
      gain: factor of the result, applied to the weights of the last layer (see `layers.Conv`).
    """

    head_dim: int
    context_bias: bool = True
    implementation: str = "xla"
    gain: float = 1.0
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array | None = None, context_mask: jax.Array | None = None
    ) -> jax.Array:
        channels = x.shape[-1]
        if channels % self.head_dim:
            raise ValueError(f"attention over {channels} channels does not divide into heads of {self.head_dim}")
        heads = (channels // self.head_dim, self.head_dim)
        source = x if context is None else context

        def weights(name: str, inputs: tuple[int, ...], outputs: tuple[int, ...], use_bias: bool) -> Any:
            return _Weights(inputs, outputs, use_bias, self.kernel_init, name=name)()

        def project(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
            product = _product(inputs.astype(self.dtype), kernel.astype(self.dtype))
            return rearrange(product, "b n (heads c) -> b n heads c", heads=heads[0])

        kernel, bias = weights("query", (channels,), heads, True)
        query = project(x, kernel) + bias.reshape(heads).astype(self.dtype)
        # A key's bias adds the same to all of a query's scores, which softmax does not see; a value's adds itself to
        # the weighted mean, whose weights sum to 1. So neither costs a pass over keys or values.
        kernel, _ = weights("key", source.shape[-1:], heads, self.context_bias)
        key = project(source, kernel)
        kernel, value_bias = weights("value", source.shape[-1:], heads, self.context_bias)
        value = project(source, kernel)
        # softmax(Q K^T / sqrt(head_dim)) V. With a zero context V is zero without its bias, whatever the weights are.
        mask = None if context_mask is None else rearrange(context_mask, "b k -> b 1 1 k")
        attended = attend(query, key, value, mask, self.implementation)
        kernel, bias = weights("out", heads, (channels,), self.context_bias)
        product = rearrange(attended, "b n heads c -> b n (heads c)") @ (self.gain * kernel).astype(self.dtype)
        if not self.context_bias:
            return product
        return product + (self.gain * (bias + jnp.matmul(value_bias, kernel, precision="highest"))).astype(self.dtype)


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [B, N, C] @ kernel [C, F].

    XLA for NVIDIA's chips makes one product of several with the same x, and then copies each one's part out of it.
    Behind barriers, which their kernels keep different, each has an x of its own and writes its result alone. Gradients
    of kernels are left to be merged.
    """

    def apart(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.optimization_barrier((x, kernel))[0]

    return jax.lax.platform_dependent(x, kernel, cuda=apart, default=lambda x, _: x) @ kernel


def _product_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(x, kernel), (x, kernel)


def _product_backward(kept: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(jnp.matmul, *kept)[1](cotangent)


_product.defvjp(_product_forward, _product_backward)


class _Weights(nn.Module):
    """The parameters of a `flax.linen.DenseGeneral` from `inputs` axes to `outputs` axes, as a matrix and a vector."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    use_bias: bool
    kernel_init: Any

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array | None]:
        flat = math.prod(self.inputs), math.prod(self.outputs)

        def initial(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            return self.kernel_init(key, flat, dtype).reshape(shape)

        kernel = self.param("kernel", initial, (*self.inputs, *self.outputs), jnp.float32).reshape(flat)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", nn.initializers.zeros, self.outputs, jnp.float32).reshape(-1)
