"""SODA on CIFAR-100, 32 px: `cifar10.py` with another dataset.

    python -m soda_jax.tools.prepare_data --dataset=cifar100 --data_dir=TFDS_DATA_DIR
    python -m soda_jax.main --config=configs/cifar100.py --workdir=... --config.data.root=TFDS_DATA_DIR

Not among the paper's datasets; the unofficial PyTorch version reports k-NN .514 and linear probe .549 after 800
epochs, as many as these 80,000 steps. Not run here.
"""

from ml_collections import ConfigDict

from soda_jax.configs import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.data.name = "cifar100"
    return config
