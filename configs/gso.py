"""SODA on renderings of Google Scanned Objects, 120 views of each (Table 10): ResNet-50 with rays, latent 2048.

    for i in GSO_DIR/*/; do cp $i/materials/textures/texture.png $i/meshes/; done
    python -m soda_jax.tools.render_objects --meshes=GSO_DIR --out=VIEWS_DIR --views=120 --resolution=256 --up=z
    python -m soda_jax.main --config=configs/gso.py --workdir=... --config.data.root=VIEWS_DIR

GSO_DIR has the unpacked archive of each object; its model.obj looks for the texture beside itself, and z is up.
Trained on 1 to 9 sources, the range that the paper evaluates; --config.data.num_sources=1 costs a fraction. Latent
and pose are both masked in training, which the paper's masking table finds best here. The paper used V100s or TPU v2
chips and reports PSNR 24.97, SSIM .945, FID 1.51 and LPIPS .054 on renderings of its own. Training ends when the
loss on the validation objects has not improved for 20,000 steps, and after 200,000 at the latest: both numbers are our
choice. By the compiler of their chips, its sixteen microbatches take 16 GiB of each of eight H100s (docs/scale.md
"Plans for chips"). Not run here.
"""

from ml_collections import ConfigDict

from soda_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    common.table_10(config, noise=0.0, encoder="resnet50", learning_rate=2e-4, batch_size=2048, guidance=2.5)
    common.novel_views(config, num_sources=9)
    config.train.num_steps = 200_000
    config.train.eval_every = 2_000
    config.data.name = "multiview"
    common.watch(config, "eval/loss", patience=20_000)
    return config
