"""A small SODA on the embedded `scenes` data: minutes on two CPU cores.

    python -m soda_jax.main --config=configs/quickstart.py --workdir=/tmp/soda_quickstart

Two CPU cores, 247 s in a fresh environment, installation included: mean online-probe accuracy over the six factors .697
(chance .124); see README.md "Install and quickstart". What differs from the paper's defaults buys speed: a small ViT
of two blocks instead of a ResNet, a narrow denoiser on maps of 16 px, a high learning rate and no dropout.
"""

from ml_collections import ConfigDict

from soda_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.train.num_steps = 3000
    config.train.batch_size = 32
    config.train.ema_decay = 0.99
    config.train.log_every = 50
    config.train.eval_every = 5000  # the end is always evaluated
    config.train.checkpoint_every = 400
    config.train.keep_every = 1_000_000

    config.optim.learning_rate = 2e-3
    config.optim.schedule = "cosine"
    config.optim.final_lr_ratio = 0.05
    config.optim.warmup_steps = 100

    config.model.latent_dim = 256
    config.model.latent_dropout = 0.0
    config.model.encoder.name = "vit_micro"
    config.model.encoder.patch_size = 8
    config.model.encoder.drop_path = 0.0
    config.model.denoiser.channels = 16
    config.model.denoiser.multipliers = (1, 1, 2)
    config.model.denoiser.num_res_blocks = 1
    config.model.denoiser.attention_resolutions = (8,)
    config.model.denoiser.head_dim = 16
    config.model.denoiser.time_dim = 64
    config.model.denoiser.dropout = 0.0
    config.model.denoiser.patch_size = 2  # maps of 16 px; with them a step of `scenes` takes 0.45 of the time
    config.model.modulation.embed_sections = False  # as measured
    config.model.denoiser.norm_groups = 1  # a narrow denoiser keeps an image's colours in large groups

    # At 32 px the paper's schedule and loss leave hardly any weight on the steps at which only the latent tells what is
    # in the image; half of the linear schedule's show next to nothing else.
    config.diffusion.schedule = "linear"
    config.diffusion.prediction = "v"

    config.data.name = "scenes"
    config.data.eval_split = "test"
    config.data.resolution = 32
    config.data.source_resolution = 32
    config.data.source_noise = 0.05
    config.data.view_policy = "same"
    config.data.augment_source = False
    config.data.augment_target = False

    config.probe.kind = "factors"
    config.probe.learning_rate = 3e-3
    config.probe.raw_pixels = True

    config.sampling.num_steps = 50
    config.sampling.guidance_scale = 2.0
    config.sampling.num_images = 8
    config.sampling.batch_size = 8
    config.eval.num_examples = 2048
    config.eval.train_examples = 20_000  # of 384,000, for --mode=evaluate
    config.eval.test_examples = 5_000
    return config
