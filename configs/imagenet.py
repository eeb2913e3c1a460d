"""SODA on ImageNet-1k (Tables 10 and 12): ResNet-50x2 at 224 px, a denoiser at 128 px, latent 2048.

    python -m soda_jax.main --config=configs/imagenet.py --workdir=... --config.data.root=TFDS_DATA_DIR

The paper's run used V100s or TPU v2 chips, batch 4096, and reports 72.24 top-1 by linear probe (69.1 with crop+flip
only, which is what this config's augmentation does). Not run here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    common.table_10(config, noise=0.1, encoder="resnet50x2", learning_rate=4e-4, batch_size=4096, guidance=2.0)
    config.model.encoder.lr_multiplier = 2.0
    config.train.num_steps = 400_000
    config.optim.schedule = "cosine"

    config.data.name = "imagenet2012"
    config.data.source_resolution = 224

    config.probe.kind = "label"
    config.probe.bias_init = -10.0
    config.probe.label_smoothing = 0.1
    return config
