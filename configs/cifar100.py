"""SODA on CIFAR-100, 32 px: `cifar10.py` with another dataset.

    python -m soda_jax.tools.prepare_data --dataset=cifar100 --data_dir=TFDS_DATA_DIR
    python -m soda_jax.main --config=configs/cifar100.py --workdir=... --config.data.root=TFDS_DATA_DIR

Not among the paper's datasets; the unofficial PyTorch version reports k-NN .514 and linear probe .549 after 800
epochs, as many as these 80,000 steps. A tenth of the training images is for validation; training ends early when the
online probe has not improved there for 10,000 steps. Not run here.
"""

from ml_collections import ConfigDict

from soda_jax.configs import cifar10, common


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.data.name = "cifar100"
    common.hold_out(config, 10)
    config.train.eval_every = 1_000
    common.watch(config, "probe/mean", patience=10_000)
    return config
