"""SODA on NMR, ShapeNet's 13 largest classes in 24 views of 64 px (Table 10): ResNet-50 with rays, latent 2048.

    python -m soda_jax.tools.prepare_data --dataset=nmr --manual_dir=DOWNLOADS --data_dir=TFDS_DATA_DIR
    python -m soda_jax.main --config=configs/nmr.py --workdir=... --config.data.root=TFDS_DATA_DIR

As in the paper (D.2) all images are enlarged, to 256 px for the encoder and 128 px for the denoiser; at their own
size, with a quarter of the denoiser's work: --config.data.source_resolution=64 --config.data.resolution=64
--config.model.encoder.small_stem=True. Trained on 1 to 9 sources, the range that the paper evaluates;
--config.data.num_sources=1 costs a fraction. The paper used V100s or TPU v2 chips and reports PSNR 28.71, SSIM .952,
FID .81 and LPIPS .048. Training ends when the loss on the validation objects has not improved for 20,000 steps,
and after 200,000 at the latest: both numbers are our choice. Not run here.
"""

from ml_collections import ConfigDict

from soda_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    common.table_10(config, noise=0.0, encoder="resnet50", learning_rate=2e-4, batch_size=2048, guidance=2.0)
    common.novel_views(config, num_sources=9)
    config.train.num_steps = 200_000
    config.train.eval_every = 2_000
    config.data.name = "nmr"
    common.watch(config, "eval/loss", patience=20_000)
    return config
