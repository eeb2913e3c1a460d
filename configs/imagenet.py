"""SODA on ImageNet-1k (Tables 10 and 12): ResNet-50x2 at 224 px, a denoiser at 128 px, latent 2048.

    python -m soda_jax.tools.prepare_data --dataset=imagenet2012 --manual_dir=DOWNLOADS --data_dir=TFDS_DATA_DIR
    python -m soda_jax.main --config=configs/imagenet.py --workdir=... --config.data.root=TFDS_DATA_DIR

Source and target are each cropped and flipped at a rate of .95 and distorted by RandAugment at .65. The paper used
V100s or TPU v2 chips and reports 72.24 top-1 by linear probe; 69.1 with crops and flips alone, for which set
--config.data.randaugment_rate=0.0. It trains until its metrics stop improving; 400,000 steps are our choice, down a
cosine, so that the run goes to its end. 1% of the training images (12,812) choose the best checkpoint, and
--mode=evaluate scores the 50,000 validation images. For a run on all training images, which chooses nothing:
--config.data.train_split=train --config.data.eval_split=validation --config.train.monitor= . By the compiler of their
chips, its four microbatches take 29 GiB of each of eight H100s (docs/scale.md "Plans for chips"). Not run here.
"""

from ml_collections import ConfigDict

from soda_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    common.table_10(config, noise=0.1, encoder="resnet50x2", learning_rate=4e-4, batch_size=4096, guidance=2.0)
    config.model.encoder.lr_multiplier = 2.0
    config.train.num_steps = 400_000
    config.optim.schedule = "cosine"

    config.data.name = "imagenet2012"
    common.hold_out(config, 1)
    common.watch(config, "probe/mean", patience=0, test_split="validation")
    config.data.source_resolution = 224
    config.data.randaugment_rate = 0.65
    config.data.eval_crop = 0.875  # the common protocol of linear probes: short side 256, centre 224

    config.probe.kind = "label"
    config.probe.bias_init = -10.0
    config.probe.label_smoothing = 0.1
    config.eval.probe_views = "cached"  # E.1 crops anew in every epoch ("epoch"), the encoder's work 200 times
    return config
