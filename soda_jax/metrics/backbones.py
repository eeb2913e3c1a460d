"""AlexNet and VGG16 up to their last convolution, as LPIPS and Frechet distances see images.

After torchvision's `alexnet` (Krizhevsky 2014) and `vgg16` (Simonyan & Zisserman 2015), whose ImageNet weights the
published LPIPS uses. Convolutions run at full float32 precision: the default of GPUs and TPUs would move LPIPS in the
third digit.
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution followed by a ReLU."""

    features: int
    size: int = 3
    stride: int = 1
    padding: int = 1


@dataclasses.dataclass(frozen=True)
class Network:
    """A chain of stages; each gives one feature map, after its last ReLU.

    Attributes:
      stages: convolutions of each stage. Every stage but the first starts with a max-pool of stride 2,
        unless it is in `unpooled`.
      pool: window of these pools.
      unpooled: stages without.
      smallest: the least height and width in pixels for which every feature map has a pixel.
    """

    stages: tuple[tuple[Conv, ...], ...]
    pool: int
    unpooled: tuple[int, ...]
    smallest: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the feature maps."""
        return tuple(stage[-1].features for stage in self.stages)

    @property
    def kernels(self) -> list[tuple[int, int, int, int]]:
        """Shapes of the convolutions' kernels, [height, width, in, out], in order."""
        shapes, width = [], 3
        for conv in (conv for stage in self.stages for conv in stage):
            shapes.append((conv.size, conv.size, width, conv.features))
            width = conv.features
        return shapes


NETWORKS = {
    "alexnet": Network(
        stages=(
            (Conv(64, size=11, stride=4, padding=2),),
            (Conv(192, size=5, padding=2),),
            (Conv(384),),
            (Conv(256),),
            (Conv(256),),
        ),
        pool=3,
        unpooled=(0, 3, 4),
        smallest=31,
    ),
    "vgg16": Network(
        stages=((Conv(64),) * 2, (Conv(128),) * 2, (Conv(256),) * 3, (Conv(512),) * 3, (Conv(512),) * 3),
        pool=2,
        unpooled=(0,),
        smallest=16,
    ),
}


def check_network(network: str) -> None:
    """Raises ValueError for a name that NETWORKS lacks."""
    if network not in NETWORKS:
        raise ValueError(f"network={network!r} is not known: choose from {', '.join(sorted(NETWORKS))}")


def features(network: str, convs: list[tuple[jax.Array, jax.Array]], images: jax.Array) -> list[jax.Array]:
    """Feature maps of images after the last ReLU of each stage.

    Args:
      network: a name in NETWORKS.
      convs: kernel [h, w, in, out] and bias [out] of each convolution, in order.
      images: float [B, H, W, 3] in [-1, 1].

    Returns:
      float32 [B, h_i, w_i, c_i] for each stage i.
    """
    # ImageNet's mean (.485, .456, .406) and deviation (.229, .224, .225), for images in [-1, 1], with LPIPS's rounding.
    x = (images.astype(jnp.float32) - jnp.array([-0.030, -0.088, -0.188])) / jnp.array([0.458, 0.448, 0.450])
    spec, weights, maps = NETWORKS[network], iter(convs), []
    for i, stage in enumerate(spec.stages):
        if i not in spec.unpooled:
            x = _max_pool(x, spec.pool)
        for conv in stage:
            x = _conv(x, *next(weights), conv)
        maps.append(x)
    return maps


def _conv(x: jax.Array, kernel: jax.Array, bias: jax.Array, conv: Conv) -> jax.Array:
    x = jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(conv.stride, conv.stride),
        padding=((conv.padding, conv.padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return jax.nn.relu(x + bias)


def _max_pool(x: jax.Array, window: int) -> jax.Array:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, 2, 2, 1), "VALID")
