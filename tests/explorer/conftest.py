"""A tiny model with directions, found once for all tests of the explorer."""

import numpy as np
import pytest

import soda_jax
from soda_jax.explorer.images import HeldOut
from soda_jax.latents.directions import measured
from soda_jax.workdir import directions as files
from tests import tiny, tiny_checkpoint
from tests.explorer.made_images import random_images


@pytest.fixture(scope="session")
def held_out():
    return HeldOut(random_images(20, seed=7), None, "noise")


@pytest.fixture(scope="session")
def model(tmp_path_factory, held_out):
    """Of three sections, with the directions "line", "other" (orthogonal to it) and "inner" (of sections 0-1)."""
    folder = tmp_path_factory.mktemp("run")
    tiny_checkpoint.write(folder, tiny.get_config(), 5)
    loaded = soda_jax.load(folder)
    codes = loaded.encode(held_out.views)
    rng = np.random.default_rng(0)
    line, other = np.linalg.qr(rng.standard_normal((loaded.latent_dim, 2)))[0].T
    common = {"kind": "test", "num_sections": loaded.num_sections, "model": loaded.weights_digest}
    place = files.folder(folder, 5)
    for name, vector, sections in (("line", line, None), ("other", other, None), ("inner", line, "0-1")):
        files.save(measured(vector, codes, name=name, sections=sections, **common), place)
    return soda_jax.load(folder)
