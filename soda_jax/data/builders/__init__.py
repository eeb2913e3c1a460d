"""TFDS builders of our own, for what TFDS lacks or cannot prepare any more; importing this registers them with TFDS.

None needs TensorFlow. Each reads the official archive's layout from TFDS's manual folder; `python -m
soda_jax.tools.prepare_data` is the way to run them.
"""

from soda_jax.data.builders.base import ArchiveError, ManualBuilder
from soda_jax.data.builders.celeba_hq import CelebaHq
from soda_jax.data.builders.class_folders import Afhq, TinyImagenet
from soda_jax.data.builders.cub import Cub
from soda_jax.data.builders.lsun import Lsun
from soda_jax.data.builders.mpi3d import Mpi3d
from soda_jax.data.builders.multiview import Gso, Nmr, RenderedObjects, Shapenet

_ALL = (Afhq, CelebaHq, Cub, Gso, Lsun, Mpi3d, Nmr, RenderedObjects, Shapenet, TinyImagenet)
BUILDERS = {builder.name: builder for builder in _ALL}

__all__ = ["BUILDERS", "ArchiveError", "ManualBuilder"]
