"""A name for weights: what is tied to a checkpoint says by it of which one it is."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

KEY = "weights_digest"  # of a checkpoint's meta data


def weights_digest(variables: Any) -> str:
    """SHA-256 of a checkpoint's float32 EMA weights, 64 hex digits: evaluations and directions are tied to it."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()


def digest_of(meta: Mapping[str, Any], variables: Any) -> str:
    """The digest of a checkpoint's original weights: `meta` names it where `variables` are an export of them in another
    precision, and otherwise they are hashed."""
    named = meta.get(KEY)
    return named if isinstance(named, str) and re.fullmatch("[0-9a-f]{64}", named) else weights_digest(variables)
