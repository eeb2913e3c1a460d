"""SODA on your own objects, seen from known cameras: one folder per object with `transforms.json` (NeRF, Blender).

    python -m soda_jax.main --config=configs/multiview.py --workdir=... --config.data.root=DIR
    python -m soda_jax.main --config=configs/multiview.py:small --workdir=... --config.data.root=DIR

soda_jax/data/datasets/multiview.py says what DIR may hold; `python -m soda_jax.tools.render_objects` makes one from 3D
models. Objects should lie within --config.model.pose.sphere_radius=1.0 of the origin, z up (scenes of the NeRF paper:
1.5). Every object needs more views than --config.data.num_sources. Training watches the loss of the validation objects
and keeps the best checkpoint; --mode=evaluate scores the test objects. Where DIR has no objects for validation:
--config.data.eval_split=test.

`full` is GSO's row of Table 10 (ResNet-50, latent 2048, guidance 2.5, no augmentation) at a batch for eight GPUs: 128
px targets from 256 px sources. Not run here. `small`, for a CPU: 32 px from maps of 16 px, a small ViT, 1 to 3 sources;
12,000 steps on 820 household models took 58 minutes of CPU time: unseen objects from 3 sources 19.51 dB, SSIM
.543, where copying the nearest source has 18.09 and .560. 28,000 more in 57 minutes of one core: 20.66 dB and .634.
`soda_jax.load("objects")` is that (REPRODUCTION.md "Novel views").
"""

from ml_collections import ConfigDict

from soda_jax.configs import common

ARGUMENTS = ("full", "small")


def get_config(size: str = "full") -> ConfigDict:
    """`size`: one of `ARGUMENTS`."""
    common.check_argument("multiview.py", size, ARGUMENTS)
    config = common.get_config()
    common.table_10(config, noise=0.0, encoder="resnet50", learning_rate=2e-4, batch_size=2048, guidance=2.5)
    common.novel_views(config, num_sources=5)
    config.train.num_steps = 200_000
    config.train.eval_every = 2_000
    config.data.name = "multiview"
    common.watch(config, "eval/loss", patience=20_000)
    if size == "small":
        _shrink(config)
    return config


def _shrink(config: ConfigDict) -> None:
    config.train.num_steps = 12_000
    config.train.patience = 0  # the cosine's end improves on all before
    config.train.batch_size = 16
    config.train.grad_accum_steps = 1
    config.train.ema_decay = 0.998
    config.train.log_every = 50
    config.train.eval_every = 3000
    config.train.checkpoint_every = 500
    config.optim.learning_rate = 1.5e-3
    config.optim.schedule = "cosine"
    config.optim.final_lr_ratio = 0.05
    config.optim.warmup_steps = 200

    config.model.dtype = "float32"
    config.model.latent_dim = 256
    config.model.latent_dropout = 0.0
    config.model.encoder.name = "vit_mini"
    config.model.encoder.patch_size = 8
    config.model.encoder.drop_path = 0.0
    config.model.denoiser.channels = 16
    config.model.denoiser.patch_size = 2  # a step in half of the time: maps of 16 px, with a ray for each place
    config.model.denoiser.multipliers = (1, 2, 4)
    config.model.denoiser.num_res_blocks = 1
    config.model.denoiser.attention_resolutions = (8,)
    config.model.denoiser.head_dim = 16
    config.model.denoiser.time_dim = 128
    config.model.denoiser.dropout = 0.0
    config.model.denoiser.norm_groups = 1
    # At 32 px the paper's schedule and loss leave hardly any weight on the steps that decide an object's place and
    # shape: most images are still readable at most steps. Half of the linear schedule's steps show next to nothing.
    config.diffusion.schedule = "linear"
    config.diffusion.prediction = "v"
    config.model.modulation.kind = "full"
    config.model.modulation.embed_sections = False  # as measured
    config.model.aggregation.name = "mean"
    config.model.pose.vector = "absolute"  # beside the rays
    # Frequencies up to a pixel's size: the paper's reach far beyond, which a short run cannot use.
    config.model.pose.encoding_dim = 36
    config.model.pose.scale = 0.1

    config.data.num_sources = 3
    config.data.resolution = 32
    config.data.source_resolution = 32
    config.data.num_workers = 0

    # Two DDIM steps give nearly the mean of what the sources leave open, which scores best while the model is young.
    config.sampling.method = "ddim"
    config.sampling.num_steps = 2
    config.sampling.guidance_scale = 1.0
    config.sampling.batch_size = 8
    config.eval.num_examples = 64
    config.eval.novel_view_sources = (1, 3, 5)
