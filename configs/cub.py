"""SODA on Caltech-UCSD Birds 200-2011 (Table 10): ResNet-18 at 256 px, a denoiser at 128 px, latent 512, noise .05.

    python -m soda_jax.tools.prepare_data --dataset=cub --manual_dir=DOWNLOADS --data_dir=TFDS_DATA_DIR
    python -m soda_jax.main --config=configs/cub.py --workdir=... --config.data.root=TFDS_DATA_DIR

Images are cut to the bird's box and padded to a square (D.2); the 312 attributes are what disentanglement is measured
on. The paper used V100s or TPU v2 chips and reports disentanglement, completeness and informativeness of 65.40, 17.43
and 88.10. A tenth of the training images is for validation; training ends when the online probe has not improved for
10,000 steps there, and after 50,000 (9,500 epochs) at the latest: both numbers are our choice. Not run here.
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
    config.data.name = "cub"
    common.hold_out(config, 10)
    common.watch(config, "probe/mean", patience=10_000)
    config.probe.kind = "attributes"
    config.eval.evaluators = (*config.eval.evaluators, "disentanglement")  # the paper's Table 4
    return config
