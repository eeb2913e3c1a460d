"""SODA on 3DShapes (Table 10): ResNet-18 at 256 px, a denoiser at 128 px, latent 512, source noise .05.

    python -m soda_jax.tools.prepare_data --dataset=shapes3d --data_dir=TFDS_DATA_DIR
    python -m soda_jax.main --config=configs/shapes3d.py --workdir=... --config.data.root=TFDS_DATA_DIR

There are no official splits: 80% are for training, 10% for validation, 10% for test. As in the paper (D.2) all images
are enlarged from 64 px; at their own size, with a quarter of the denoiser's work: --config.data.source_resolution=64
--config.data.resolution=64 --config.model.encoder.small_stem=True. The paper used V100s or TPU v2 chips and reports
disentanglement, completeness and informativeness of 98.60, 84.76 and 98.88. Training ends when the loss on the
validation split has not improved for 20,000 steps, and after 200,000 at the latest: both numbers are our choice. Not
run here.
"""

from ml_collections import ConfigDict

from soda_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    common.table_10(config, noise=0.05, encoder="resnet18", learning_rate=1e-4, batch_size=1024, guidance=3.0)
    common.autoencode(config)
    config.model.latent_dim = 512
    config.train.num_steps = 200_000
    config.train.eval_every = 2_000
    config.data.name = "shapes3d"
    common.watch(config, "eval/loss", patience=20_000)  # the probe soon has every factor right
    config.probe.kind = "factors"
    config.eval.evaluators = (*config.eval.evaluators, "disentanglement")  # the paper's Table 4
    return config
