"""Shared fixtures: a cache folder of the session's own, and the rendered scenes in it."""

import os

import pytest
from absl import flags

from soda_jax import data

# grain's worker processes hand the parsed flags on.
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory):
    """Sends every cache of these tests to a temporary folder."""
    previous = os.environ.get("XDG_CACHE_HOME")
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield folder
    if previous is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = previous


@pytest.fixture(scope="session")
def scenes(cache_home):
    return data.load_dataset("scenes", None, "train", resolution=32)


@pytest.fixture(scope="session")
def free_scenes(cache_home):
    return data.load_dataset("scenes_free", None, "train", resolution=32, num_views=5)
