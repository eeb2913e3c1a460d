"""SODA on SmallNORB (Table 10): ResNet-18 at 256 px, a denoiser at 128 px, latent 512, source noise .05.

    python -m soda_jax.tools.prepare_data --dataset=smallnorb --data_dir=TFDS_DATA_DIR
    python -m soda_jax.main --config=configs/smallnorb.py --workdir=... --config.data.root=TFDS_DATA_DIR

The official splits share no object; of a stereo pair the left image is used. As in the paper (D.2) all images are
enlarged from 96 px; at their own size: --config.data.source_resolution=96 --config.data.resolution=96
--config.model.denoiser.attention_resolutions="(6,12,24)". The paper used V100s or TPU v2 chips and reports
disentanglement, completeness and informativeness of 72.60, 51.56 and 70.19. A tenth of the training images is for
validation; training ends when their loss has not improved for 20,000 steps, and after 200,000 (9,400 epochs) at the
latest: both numbers are our choice. Not run here.
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
    config.data.name = "smallnorb"
    common.hold_out(config, 10)
    common.watch(config, "eval/loss", patience=20_000)  # of the training objects; the test objects are other ones
    config.probe.kind = "factors"
    config.eval.evaluators = (*config.eval.evaluators, "disentanglement")  # the paper's Table 4
    return config
