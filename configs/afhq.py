"""SODA on AFHQ's cats, dogs and wild animals (Table 10): ResNet-50 at 256 px, a denoiser at 128 px, source noise .22.

    python -m soda_jax.tools.prepare_data --dataset=afhq/v2 --manual_dir=DOWNLOADS --data_dir=TFDS_DATA_DIR
    python -m soda_jax.main --config=configs/afhq.py --workdir=... --config.data.root=TFDS_DATA_DIR

The paper does not say which version of the dataset it used; for the first one, prepare it and set
--config.data.name=afhq/v1. The paper used V100s or TPU v2 chips and gives no figures for AFHQ; 50,000 steps are our
choice. Not run here.
"""

from ml_collections import ConfigDict

from soda_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    common.table_10(config, noise=0.22, encoder="resnet50", learning_rate=4e-4, batch_size=4096, guidance=2.0)
    common.autoencode(config)
    config.train.num_steps = 50_000
    config.data.name = "afhq/v2"
    config.data.eval_split = "test"
    config.probe.kind = "label"
    return config
