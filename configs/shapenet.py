"""SODA on renderings of ShapeNet, 120 views of each object (Table 10): ResNet-50 with rays at 256 px, latent 2048.

    python -m soda_jax.tools.render_objects --meshes=SHAPENET_DIR --out=VIEWS_DIR --views=120 --resolution=256
    python -m soda_jax.main --config=configs/shapenet.py --workdir=... --config.data.root=VIEWS_DIR

Trained on 1 to 9 sources, the range that the paper evaluates; --config.data.num_sources=1 costs a fraction. Only the
latent is masked, which the paper's masking table finds best here. The paper used V100s or TPU v2 chips and reports
PSNR 27.42, SSIM .947, FID .74 and LPIPS .039 on renderings of its own. Training ends when the loss on the
validation objects has not improved for 20,000 steps, and after 200,000 at the latest: both numbers are our choice. Not
run here.
"""

from ml_collections import ConfigDict

from soda_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    common.table_10(config, noise=0.0, encoder="resnet50", learning_rate=2e-4, batch_size=2048, guidance=2.0)
    common.novel_views(config, num_sources=9)
    config.train.num_steps = 200_000
    config.train.eval_every = 2_000
    config.data.name = "multiview"
    common.watch(config, "eval/loss", patience=20_000)
    config.diffusion.pose_mask_rate = 0.0
    return config
