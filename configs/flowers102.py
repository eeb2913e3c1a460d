"""SODA on Oxford Flowers 102 (Table 10): ResNet-18 at 256 px, a denoiser at 128 px, latent 512, source noise .05.

    python -m soda_jax.tools.prepare_data --dataset=oxford_flowers102 --data_dir=TFDS_DATA_DIR
    python -m soda_jax.main --config=configs/flowers102.py --workdir=... --config.data.root=TFDS_DATA_DIR

The official training split has only 1,020 of the 8,189 images. Training ends when the online probe has not improved for
10,000 steps on the validation split, and after 50,000 at the latest: both numbers are our choice. Twice as many images,
none to validate on, and a number of steps of your own: --config.data.train_split=train+validation
--config.data.eval_split=test --config.train.patience=0 --config.train.monitor= . The paper used V100s or TPU v2 chips
and gives no figures for this set. Not run here.
"""

from ml_collections import ConfigDict

from soda_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    common.table_10(config, noise=0.05, encoder="resnet18", learning_rate=1e-4, batch_size=1024, guidance=3.0)
    common.autoencode(config)
    config.model.latent_dim = 512
    config.train.num_steps = 50_000
    config.train.eval_every = 1_000
    config.data.name = "oxford_flowers102"
    common.watch(config, "probe/mean", patience=10_000)
    config.probe.kind = "label"
    return config
