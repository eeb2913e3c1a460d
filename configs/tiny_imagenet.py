"""SODA on Tiny-ImageNet, 200 classes at 64 px: `cifar10.py` at twice its size.

    python -m soda_jax.tools.prepare_data --dataset=tiny_imagenet --manual_dir=DOWNLOADS --data_dir=TFDS_DATA_DIR
    python -m soda_jax.main --config=configs/tiny_imagenet.py --workdir=... --config.data.root=TFDS_DATA_DIR

Not among the paper's datasets; the unofficial PyTorch version reports k-NN .348 and linear probe .382 after 800
epochs, as many as these 160,000 steps. A tenth of the training images is for validation; training ends early when the
online probe has not improved there for 20,000 steps. --mode=evaluate scores the official validation images. Not run
here.
"""

from ml_collections import ConfigDict

from soda_jax.configs import cifar10, common


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.train.num_steps = 160_000
    config.train.eval_every = 2_000
    config.data.name = "tiny_imagenet"
    common.hold_out(config, 10)
    common.watch(config, "probe/mean", patience=20_000, test_split="validation")  # the test images have no labels
    config.data.resolution = 64
    config.data.source_resolution = 64
    config.data.num_workers = 8
    return config
