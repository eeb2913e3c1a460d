"""Chips that are not here, for the ahead-of-time compilers of JAX's CUDA plugin and of libtpu."""

import ctypes
import importlib.util
import os
import re
from typing import Any

import jax

from soda_jax.performance import chips, quiet

_GPU = re.compile(r"([a-z]\w*?)(?::(\d+))?")
_TPU = re.compile(r"v\d\w*:\d+(x\d+){1,2}")
_GPUS_A_HOST = 8
_HOW_TO_GPU = "pip install 'soda-jax[plan-gpu]'"
_HOW_TO_TPU = "pip install 'soda-jax[plan-tpu]'"


def devices(name: str) -> list[Any]:
    """The devices of a topology, which compile but hold and run nothing.

    Args:
      name: GPUs of `chips.GPU_NAMES` and their number, as "h100:8" or "a100" (one); or a slice of TPUs, as "v5e:4x8".

    Raises:
      ValueError: the name means nothing, or the compiler for it is not installed; says what helps.
    """
    gpu = _GPU.fullmatch(name)
    if gpu is not None and gpu[1] in chips.GPU_NAMES:
        return _gpus(name, gpu[1], int(gpu[2] or 1))
    if _TPU.fullmatch(name):
        return _tpus(name)
    raise ValueError(
        f"--plan_topology={name}: give a GPU of {', '.join(chips.GPU_NAMES)} and how many, as h100:8, or a TPU slice, "
        "as v5e:4x8, v5p:2x2x2 or v6e:8x8"
    )


def missing(platform: str) -> str | None:
    """Why nothing can be compiled for a "gpu" or "tpu" here, and the command that helps; None where it can."""
    if platform == "tpu":
        return None if _installed("libtpu") else f"needs libtpu ({_HOW_TO_TPU})"
    if not any(_installed(f"jax_plugins.xla_cuda{version}") for version in (12, 13)):
        return f"needs JAX's CUDA plugin ({_HOW_TO_GPU}); no GPU is needed"
    return None


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def _gpus(name: str, chip: str, count: int) -> list[Any]:
    if count < 1 or (count > _GPUS_A_HOST and count % _GPUS_A_HOST):
        raise ValueError(
            f"--plan_topology={name}: must be 1 to {_GPUS_A_HOST} GPUs of a host, or a multiple of {_GPUS_A_HOST}"
        )
    if (reason := missing("gpu")) is not None:
        raise ValueError(f"--plan_topology={name}: {reason}")
    a_host = min(count, _GPUS_A_HOST)
    shape = f"1x{count // a_host}x{a_host}"
    found = _described(name, "cuda", _HOW_TO_GPU, target_config=chips.gpu_target(chip), topology=shape)
    try:
        ctypes.CDLL("libcudnn.so.9")  # by now the plugin has loaded the one of nvidia-cudnn, where there is any
    except OSError as error:
        raise ValueError(f"--plan_topology={name}: needs cuDNN 9 ({_HOW_TO_GPU})") from error
    return found


def _tpus(name: str) -> list[Any]:
    if (reason := missing("tpu")) is not None:
        raise ValueError(f"--plan_topology={name}: {reason}")
    # libtpu would look for a TPU around this process, and refuse to be loaded by two, of which one might hold it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    return _described(name, "tpu", _HOW_TO_TPU)


def _described(name: str, platform: str, how_to: str, **options: str) -> list[Any]:
    from jax.experimental import topologies as aot

    try:
        with quiet.loading():
            try:
                return list(aot.get_topology_desc(platform=platform, topology_name=name, **options).devices)
            except jax.errors.JaxRuntimeError as error:
                failed: Exception = error  # of a compiler that works: what it wrote beside this tells no more
    except Exception as error:  # of many types; what was written is shown
        failed = error
    words = " ".join(str(failed).split())
    raise ValueError(
        f"--plan_topology={name}: its compiler says: {words}; ask for chips that exist, or install the compiler of "
        f"this JAX ({how_to})"
    ) from failed
