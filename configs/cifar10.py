"""SODA on CIFAR-10, 32 px: ResNet-18 with a 3x3 stem, and a UNet of 128 channels.

    python -m soda_jax.tools.prepare_data --dataset=cifar10 --data_dir=TFDS_DATA_DIR
    python -m soda_jax.main --config=configs/cifar10.py --workdir=... --config.data.root=TFDS_DATA_DIR
    python -m soda_jax.main --config=configs/cifar10.py:small --workdir=... --config.data.root=TFDS_DATA_DIR

One H100, 9,400 steps with a cosine schedule in 17 minutes: k-NN .7675, linear probe .7458 (command in REPRODUCTION.md
"CIFAR-10"). CIFAR-10 is not among the paper's datasets; the unofficial PyTorch version reports 80.4 and 80.0 after 800
epochs. `small` is for a CPU: 75 minutes of one core, k-NN .5777, linear probe .5405, where raw pixels have .3637 and
.4131. These two train on all 50,000 images: they show the test images' curves, and choose nothing by them.
`validated` keeps 5,000 images back, ends when the online probe has not improved on them for 10,000 steps, and keeps
the best checkpoint; not run.
"""

from ml_collections import ConfigDict

from soda_jax.configs import common

ARGUMENTS = ("full", "small", "validated")


def get_config(size: str = "full") -> ConfigDict:
    """`size`: one of `ARGUMENTS`."""
    common.check_argument("cifar10.py", size, ARGUMENTS)
    config = common.get_config()
    config.train.batch_size = 512
    config.train.num_steps = 80_000
    config.train.log_every = 100
    config.train.eval_every = 5_000
    config.train.checkpoint_every = 2_500
    config.optim.learning_rate = 4e-4
    config.optim.warmup_steps = 2000

    config.model.dtype = "bfloat16"
    config.model.latent_dim = 512
    config.model.encoder.name = "resnet18"
    config.model.encoder.small_stem = True
    config.model.denoiser.channels = 128
    config.model.denoiser.multipliers = (1, 2, 2, 2)
    config.model.denoiser.attention_resolutions = (16,)
    config.model.modulation.embed_sections = False  # as measured; in the paper's configs it is on

    config.data.name = "cifar10"
    config.data.eval_split = "test"
    config.data.resolution = 32
    config.data.source_resolution = 32
    config.data.source_noise = 0.05
    config.data.crop_scale = (0.2, 1.0)
    config.data.num_workers = 0

    config.sampling.guidance_scale = 2.0
    if size == "small":
        _shrink(config)
    if size == "validated":
        common.hold_out(config, 10)
        config.train.eval_every = 1_000
        common.watch(config, "probe/mean", patience=10_000)
    return config


def _shrink(config: ConfigDict) -> None:
    # What an hour of a CPU lacks is steps: at equal time 16 images a step are far ahead of 64 (docs/small_images.md).
    config.train.batch_size = 16
    config.train.num_steps = 24_000
    config.train.ema_decay = 0.999
    config.train.log_every = 200
    config.train.eval_every = 6_000
    config.train.checkpoint_every = 2_000
    config.optim.learning_rate = 1e-3
    config.optim.schedule = "cosine"
    config.optim.final_lr_ratio = 0.05
    config.optim.warmup_steps = 200

    config.model.dtype = "float32"
    config.model.latent_dim = 128
    config.model.modulation.kind = "full"  # every block sees all of a short latent: better features in little time
    config.model.encoder.base_features = 16
    config.model.encoder.drop_path = 0.0
    config.model.denoiser.channels = 16
    config.model.denoiser.multipliers = (1, 2, 2)
    config.model.denoiser.num_res_blocks = 1
    # 32 groups of 16 channels would erase the mean of each, and with it the colour of what is drawn.
    config.model.denoiser.norm_out_groups = 1
    config.model.denoiser.attention_resolutions = (8,)
    config.model.denoiser.head_dim = 16
    config.model.denoiser.time_dim = 128
    config.model.denoiser.dropout = 0.0

    config.sampling.num_steps = 50
    config.sampling.batch_size = 8
    config.eval.num_examples = 2000
