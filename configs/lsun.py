"""SODA on one category of LSUN (Table 10): ResNet-50 at 256 px, a denoiser at 128 px, latent 2048, source noise .22.

    python -m soda_jax.tools.prepare_data --dataset=lsun/bedroom --manual_dir=DOWNLOADS --data_dir=TFDS_DATA_DIR
    python -m soda_jax.main --config=configs/lsun.py:bedroom --workdir=... --config.data.root=TFDS_DATA_DIR

Categories: bedroom (3.03M images), church (126K), bird (2.31M), car (5.52M), cat (1.66M), dog (5.05M), horse (2.00M).
The two scenes have 300 official validation images, which --mode=evaluate scores, and training watches 1% of their
training images; of the other categories 10% are held out for validation and 10% for test. Training ends when the loss
on what it watches has not improved for 20,000 steps, and after 200,000 at the latest: both numbers are our choice. The
paper used V100s or TPU v2 chips and gives no figures for LSUN. Not run here.
"""

from ml_collections import ConfigDict

from soda_jax.configs import common

ARGUMENTS = ("bedroom", "church", "bird", "car", "cat", "dog", "horse")


def get_config(category: str = "bedroom") -> ConfigDict:
    """`category`: one of `ARGUMENTS`."""
    common.check_argument("lsun.py", category, ARGUMENTS)
    config = common.get_config()
    common.table_10(config, noise=0.22, encoder="resnet50", learning_rate=4e-4, batch_size=4096, guidance=2.0)
    common.autoencode(config)
    config.train.num_steps = 200_000
    config.train.eval_every = 2_000
    config.data.name = "lsun/church_outdoor" if category == "church" else f"lsun/{category}"
    scene = category in ("bedroom", "church")
    if scene:
        common.hold_out(config, 1)
    common.watch(config, "eval/loss", patience=20_000, test_split="validation" if scene else "test")
    config.probe.kind = "none"
    config.eval.evaluators = ("reconstruction",)
    return config
