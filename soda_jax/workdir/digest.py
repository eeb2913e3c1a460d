"""A name for weights: what is tied to a checkpoint says by it of which one it is."""

import hashlib
from typing import Any

import jax
import numpy as np


def weights_digest(variables: Any) -> str:
    """SHA-256 of a checkpoint's float32 EMA weights, 64 hex digits: evaluations and directions are tied to it."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()
