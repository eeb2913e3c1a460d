"""SODA on AFHQ's cats, dogs and wild animals (Table 10): ResNet-50 at 256 px, a denoiser at 128 px, source noise .22.

    python -m soda_jax.tools.prepare_data --dataset=afhq/v2 --manual_dir=DOWNLOADS --data_dir=TFDS_DATA_DIR
    python -m soda_jax.main --config=configs/afhq.py --workdir=... --config.data.root=TFDS_DATA_DIR

The paper does not say which version of the dataset it used; for the first one, prepare it and set
--config.data.name=afhq/v1. The paper used V100s or TPU v2 chips and gives no figures for AFHQ. A tenth of the
training images is for validation; training ends when their loss has not improved for 10,000 steps, and after 50,000
at the latest: both numbers are our choice. Not run here.
"""

from ml_collections import ConfigDict

from soda_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    common.table_10(config, noise=0.22, encoder="resnet50", learning_rate=4e-4, batch_size=4096, guidance=2.0)
    common.autoencode(config)
    config.train.num_steps = 50_000
    config.train.eval_every = 1_000
    config.data.name = "afhq/v2"
    common.hold_out(config, 10)
    common.watch(config, "eval/loss", patience=10_000)  # three species are soon told apart
    config.probe.kind = "label"
    return config
