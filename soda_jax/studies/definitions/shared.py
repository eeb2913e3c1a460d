"""What several of the paper's studies have in common."""

from collections.abc import Iterable
from typing import Any

from soda_jax.studies.definition import Claim, Size

TFDS = "the prepared set, --config.data.root=TFDS_DATA_DIR"
VIEWS = "renderings, --config.data.root=DIR"
BATCHED = "several accelerators"

# One learning rate and few epochs: the probe itself would take longer than these runs.
QUICK_PROBE: dict[str, Any] = {
    "eval.baselines": False,
    "eval.train_examples": 10_000,
    "eval.test_examples": 2_000,
    "eval.probe_epochs": 20,
    "eval.probe_learning_rates": (3e-3,),
}
# In place of the quickstart's, which suit 32 px.
PAPERS_DIFFUSION: dict[str, Any] = {
    "diffusion.schedule": "inverted",
    "diffusion.prediction": "eps",
    "model.denoiser.patch_size": 1,
}
QUICK_DCI: dict[str, Any] = {"eval.dci_repeats": 0, "eval.dci_sections": False, "eval.dci_pca": ()}

FACTORS = {
    "probe": "linear_probe/mean",
    "dci": "disentanglement/dci",
    "d": "disentanglement/d",
    "c": "disentanglement/c",
    "i": "disentanglement/i",
    "psnr": "reconstruction/psnr",
    "ssim": "reconstruction/ssim",
}
MEASURED = ("linear_probe", "disentanglement", "reconstruction")


def beats(
    row: str, others: Iterable[str], column: str, text: str, where: str, relation: str = ">"
) -> tuple[Claim, ...]:
    """One claim for each of `others`: `text`, in which {} stands for its name."""
    return tuple(Claim(text.format(other), row, relation, other, column, where) for other in others)


def scenes(seeds: int = 5) -> Size:
    """Rooms rendered by the package itself, whole as source and target, by `configs/quickstart.py` at 16 px, where the
    paper's schedule and loss leave a latent enough to tell."""
    fields = PAPERS_DIFFUSION | QUICK_PROBE | QUICK_DCI | {
        "data.resolution": 16,
        "eval.evaluators": MEASURED,
        "eval.reconstruction_examples": 128,
        "train.eval_every": 500,
        "model.vae.annealed_steps": 3000,  # its capacity rises over the whole run, as over the protocol's own
    }  # fmt: skip
    return Size("quickstart", FACTORS, fields, seeds)


def large_scenes(seeds: int = 3) -> Size:
    """The same rooms at 64 px with a ResNet-18 and the paper's schedule, for one GPU."""
    fields = (
        PAPERS_DIFFUSION
        | QUICK_DCI
        | {
            "train.num_steps": 20_000,
            "train.batch_size": 256,
            "train.ema_decay": 0.999,
            "train.eval_every": 2_000,
            "train.checkpoint_every": 1_000,
            "optim.learning_rate": 4e-4,
            "optim.warmup_steps": 1_000,
            "model.dtype": "bfloat16",
            "model.latent_dim": 512,
            "model.encoder.name": "resnet18",
            "model.encoder.small_stem": True,
            "model.denoiser.channels": 64,
            "model.denoiser.multipliers": (1, 2, 2, 2),
            "model.denoiser.num_res_blocks": 2,
            "model.denoiser.attention_resolutions": (16,),
            "model.denoiser.head_dim": 64,
            "model.denoiser.time_dim": 256,
            "model.denoiser.norm_groups": 32,
            "model.modulation.embed_sections": True,
            "model.vae.annealed_steps": 20_000,
            "data.resolution": 64,
            "data.source_resolution": 64,
            "sampling.batch_size": 64,
            "eval.baselines": False,
            "eval.evaluators": MEASURED,
            "eval.reconstruction_examples": 1024,
        }
    )
    return Size("quickstart", FACTORS, fields, seeds)


def celeba_hq(seeds: int = 3) -> Size:
    """The paper's own ablations: CelebA-HQ with a ResNet-50 (its Table 11)."""
    columns = FACTORS | {"probe": "linear_probe/mean_f1"}
    fields = {"model.encoder.name": "resnet50", "eval.evaluators": MEASURED, "eval.reconstruction_examples": 0}
    return Size("celeba_hq", columns, fields, seeds, f"{TFDS}; {BATCHED}")


def cifar10_small(evaluators: tuple[str, ...], columns: dict[str, str], seeds: int) -> Size:
    """CIFAR-10 with the narrow model of `configs/cifar10.py:small`, for 2,400 steps."""
    fields = QUICK_PROBE | {
        "train.num_steps": 2_400,
        "train.eval_every": 800,
        "train.checkpoint_every": 400,
        "eval.evaluators": evaluators,
        "eval.train_examples": 20_000,
        "eval.test_examples": 0,
        "eval.reconstruction_examples": 128,
    }
    return Size("cifar10:small", columns, fields, seeds, f"CIFAR-10, {TFDS.split(', ')[1]}")


def cifar10(evaluators: tuple[str, ...], columns: dict[str, str], seeds: int) -> Size:
    """CIFAR-10 as REPRODUCTION.md has it: 9,400 steps of 512, 17 minutes of one H100 for SODA."""
    fields = {
        "train.num_steps": 9_400,
        "train.ema_decay": 0.999,
        "train.eval_every": 2_350,
        "train.checkpoint_every": 1_000,
        "optim.schedule": "cosine",
        "optim.final_lr_ratio": 0.05,
        "optim.warmup_steps": 500,
        "eval.evaluators": evaluators,
        "eval.baselines": False,
        "eval.probe_epochs": 50,
        "eval.reconstruction_examples": 512,
    }
    return Size("cifar10", columns, fields, seeds, f"CIFAR-10, {TFDS.split(', ')[1]}; one GPU")


def imagenet(evaluators: tuple[str, ...], columns: dict[str, str], seeds: int = 3, **fields: Any) -> Size:
    """The paper's ImageNet."""
    settings = {"eval.evaluators": evaluators} | {name.replace("__", "."): value for name, value in fields.items()}
    return Size("imagenet", columns, settings, seeds, f"{TFDS}; {BATCHED}")
