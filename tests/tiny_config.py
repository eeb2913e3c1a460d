"""The tests' tiny config as a file for the command line; its argument is the folder of the geometry's cache."""

from ml_collections import ConfigDict

from tests import tiny


def get_config(root: str) -> ConfigDict:
    return tiny.scenes_config(
        root, train__num_steps=30, train__batch_size=8, train__checkpoint_every=10, train__eval_every=15
    )
