"""Tables 5 and 8 and G.3: how several sources are joined, how cameras are told, what is masked."""

from typing import Any

from soda_jax.studies.definition import Claim, Printed, Row, Size, Study
from soda_jax.studies.definitions.shared import BATCHED, TFDS, VIEWS, beats

_COUNTS = (1, 3, 5, 7, 9)
_METRICS = ("psnr", "ssim", "frechet_alexnet")
_WEIGHTS = "LPIPS's weights for frechet_alexnet (pip install -e '.[lpips]')"


def _columns(counts: tuple[int, ...], metrics: dict[str, str]) -> dict[str, str]:
    return {f"{short} {n}": f"novel_view{n}/{name}" for short, name in metrics.items() for n in counts}


def _small(counts: tuple[int, ...], fields: dict[str, Any], seeds: int = 2) -> Size:
    """`configs/multiview.py:small`, some 15 minutes of two cores by its own rate."""
    settings = {
        "train.num_steps": 2_000,
        "train.eval_every": 500,
        "eval.novel_view_sources": counts,
        "eval.novel_view_examples": 0,
        "eval.novel_view_targets": 4,
        "eval.image_metrics": _METRICS,
        "eval.baselines": False,
    }
    columns = _columns(counts, {"psnr": "psnr", "ssim": "ssim", "frechet": "frechet_alexnet"})
    return Size("multiview:small", columns, settings | fields, seeds, f"{VIEWS}; {_WEIGHTS}")


def _moderate(counts: tuple[int, ...], fields: dict[str, Any], seeds: int = 3) -> Size:
    """`configs/multiview.py` at 64 px with a ResNet-18, for one GPU."""
    settings = {
        "train.num_steps": 20_000,
        "train.batch_size": 128,
        "train.grad_accum_steps": 1,
        "train.ema_decay": 0.999,
        "optim.learning_rate": 2e-4,
        "optim.warmup_steps": 1_000,
        "model.latent_dim": 512,
        "model.encoder.name": "resnet18",
        "model.encoder.small_stem": True,
        "data.resolution": 64,
        "data.source_resolution": 64,
        "eval.novel_view_sources": counts,
        "eval.novel_view_examples": 0,
        "eval.image_metrics": _METRICS,
        "eval.baselines": False,
    }
    columns = _columns(counts, {"psnr": "psnr", "ssim": "ssim", "frechet": "frechet_alexnet"})
    return Size("multiview", columns, settings | fields, seeds, f"{VIEWS}; {_WEIGHTS}; one GPU")


def _paper(config: str, counts: tuple[int, ...], fields: dict[str, Any]) -> Size:
    settings = {"eval.novel_view_sources": counts, "eval.novel_view_examples": 0}
    settings |= {"eval.image_metrics": ("psnr", "ssim", "fid")}
    columns = _columns(counts, {"psnr": "psnr", "ssim": "ssim", "frechet": "fid"})
    where = VIEWS if config != "nmr" else TFDS
    return Size(config, columns, settings | fields, 3, f"{where}; Inception's weights for FID; {BATCHED}")


_TRANSFORMER, _MEAN, _STOCHASTIC = "SODA (transformer)", "mean aggregation", "stochastic conditioning"

VIEWS_STUDY = Study(
    name="views",
    title="How several sources are joined",
    where="Table 5, Figure 7",
    rows=(
        Row(_TRANSFORMER, "transformer aggregation"),
        Row(_MEAN, "mean aggregation"),
        Row(_STOCHASTIC, "stochastic conditioning"),
    ),
    claims=(
        *(
            claim
            for count in _COUNTS[1:]
            for claim in beats(
                _TRANSFORMER,
                (_MEAN, _STOCHASTIC),
                f"frechet {count}",
                f"With {count} sources a transformer is closer to real views than {{}}",
                "Table 5",
                "<",
            )
        ),
        *(
            Claim(f"More sources help: {row}, 9 against 1", row, ">", row, "psnr 9", "Table 5, Figure 7", "psnr 1")
            for row in (_TRANSFORMER, _MEAN, _STOCHASTIC)
        ),
    ),
    sizes={
        # A random source in each step needs more steps than sources.
        "cpu": _small(_COUNTS, {"data.num_sources": 5, "sampling.num_steps": 25}),
        "gpu": _moderate(_COUNTS, {"data.num_sources": 9}),
        "paper": _paper("gso", _COUNTS, {}),
    },
    printed={f"frechet {count}": Printed("gso", f"novel_view{count}/fid", ("Table 5",)) for count in _COUNTS[1:]},
    curves=("eval/loss",),
    notes=(
        "Below size `paper` the column frechet is the distance of AlexNet's features, another scale than FID.",
        "At size `cpu` training shows up to 5 sources, so 7 and 9 are more than it has seen.",
    ),
)

_SPHERE = "sphere polar"
_FORMS = (
    ("concat cartesian", "concat rays, cartesian"),
    ("concat polar", "concat rays, polar"),
    ("normalized cartesian", "normalized rays, cartesian"),
    ("plane cartesian", "plane rays, cartesian"),
    ("sphere cartesian", "sphere rays, cartesian"),
)
_VECTOR = "absolute pose as a vector"
_BESIDE = ("rays and relative pose as a vector", "rays and absolute pose as a vector")
_ONE_SOURCE = {"data.num_sources": 1}

RAYS = Study(
    name="rays",
    title="How the model is told of cameras",
    where="Table 8, G.3",
    rows=(
        Row(_SPHERE, "sphere rays, polar"),
        *(Row(name, variant) for name, variant in _FORMS),
        Row(_VECTOR, _VECTOR),
        *(Row(name, name) for name in _BESIDE),
    ),
    claims=(
        *beats(
            _SPHERE,
            [name for name, _ in _FORMS],
            "psnr 1",
            "Points on a sphere in polar coordinates draw better views than {}",
            "Table 8",
        ),
        *beats(_SPHERE, [_VECTOR], "psnr 1", "A grid of rays draws better views than {}", "Table 8"),
    ),
    sizes={
        "cpu": _small((1,), _ONE_SOURCE),
        "gpu": _moderate((1,), _ONE_SOURCE),
        "paper": _paper("shapenet", (1,), _ONE_SOURCE),
    },
    curves=("eval/loss",),
    notes=("The table's numbers are not in the text that was at hand; its best form is.",),
)

_BOTH = "latent+pose masking"
_GUIDED = _ONE_SOURCE | {"sampling.guidance_scale": 2.0, "sampling.num_steps": 25}

MASKING = Study(
    name="masking",
    title="What is masked in training, and guided by",
    where="G.3",
    rows=(Row(_BOTH, _BOTH), Row("latent masking", "latent masking"), Row("pose masking", "pose masking")),
    claims=beats(
        _BOTH, ("latent masking", "pose masking"), "psnr 1", "Masking latent and pose draws better views than {}", "G.3"
    ),
    sizes={
        "cpu": _small((1,), _GUIDED),
        "gpu": _moderate((1,), _ONE_SOURCE),
        "paper": _paper("gso", (1,), _ONE_SOURCE),
    },
    curves=("eval/loss",),
    notes=("The table's numbers are not in the text that was at hand; its best row is.",),
)

STUDIES = (VIEWS_STUDY, RAYS, MASKING)
