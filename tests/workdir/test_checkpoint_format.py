"""A checkpoint that release 0.1.0 wrote (format 1, without checksums) is read as it was written."""

import hashlib
import json
import pathlib
import zipfile

import jax
import numpy as np
import pytest

import soda_jax
from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.data.datasets import Labels
from soda_jax.parallel import sharding
from soda_jax.workdir.checkpoint import Checkpointer, DamagedCheckpointError, read_meta
from tests import tiny

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
STEP = 4


@pytest.fixture
def workdir(tmp_path):
    with zipfile.ZipFile(FIXTURES / "checkpoint_format_1.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


def expected():
    """{leaf: [dtype, shape, start of the SHA-256 of its bytes]}, taken from the state in memory as it was saved."""
    return json.loads((FIXTURES / "checkpoint_format_1.json").read_text())


def described(tree):
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {
        jax.tree_util.keystr(path): [
            str(leaf.dtype), list(np.shape(leaf)), hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest()[:16]
        ]
        for path, leaf in leaves
    }  # fmt: skip


def test_the_whole_state_is_restored_bitwise(workdir):
    """By today's code and today's config, so that every leaf still has its place."""
    step, meta = read_meta(str(workdir))
    assert (step, meta["format_version"], meta["data_position"]) == (STEP, 1, STEP)
    config = config_lib.from_dict(meta["config"])
    labels = {kind: Labels(tuple(sizes), tuple(map(str, sizes))) for kind, sizes in meta["targets"].items()}
    size = (1, 32, 32, 3)
    example = {"source": np.zeros((1, *size), np.uint8), "source_mask": np.ones((1, 1), bool)}
    example |= {"target": np.zeros(size, np.uint8), "id": np.zeros(1, np.int32), "factors": np.zeros((1, 6), np.int32)}
    place = sharding.replicated(sharding.make_mesh())
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(build.train_step(config, labels).init, example),
    )
    with Checkpointer(str(workdir), 1000) as checkpointer:
        assert checkpointer.step == STEP
        assert described(checkpointer.restore(abstract, STEP)) == expected()


def test_its_averaged_weights_load(workdir):
    model = soda_jax.load(workdir)
    assert (model.step, model.latent_dim) == (STEP, 8)
    found = described({f"ema_{name}": value for name, value in model.variables.items()})
    prefixed = {f"['{name[1:].replace('[', chr(39) + '][', 1)}": entry for name, entry in expected().items()}
    assert found == {name: entry for name, entry in prefixed.items() if name.startswith("['ema_")}


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_its_damage_is_noticed_by_reading(workdir, damage):
    folder = workdir / "checkpoints" / str(STEP) / "ema" / "d"
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-20]) if damage == "truncated" else file.unlink()
    with pytest.raises(DamagedCheckpointError, match="4: ema cannot be read"):
        read_meta(str(workdir))


def test_tiny_resnet_is_known():
    assert tiny.resnet.STAGE_SIZES[6] == (1,)  # the fixture's encoder
