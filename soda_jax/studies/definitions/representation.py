"""Table 1, Figure 6 and Section 3.4: what makes the latent a good representation."""

from soda_jax.studies.definition import Printed, Row, Study
from soda_jax.studies.definitions.shared import beats, cifar10, cifar10_small, imagenet

_SODA = "SODA"
_PROBES = {"probe": "linear_probe/label", "knn": "knn20/label"}
_WITH_PSNR = _PROBES | {"psnr": "reconstruction/psnr"}
_EVALUATORS = ("knn", "linear_probe")
_ALL = (*_EVALUATORS, "reconstruction")
_LAYERS = {"model.modulation.kind": "layer"}  # SODA's; `cifar10.py:small` has another
_ABLATIONS = ("w/o novel views", "w/o noise schedule", "w/o modulation", "w/o bottleneck")
_OTHERWISE_MODULATED = ("w/o modulation", "w/o bottleneck")
_BASELINES = ("Uncond", "Palette", "EncDec", "AutoEnc")
# Models without a latent: activations of the denoiser, the block and the noise level chosen on training images.
_DENOISER = {
    "eval.feature": "denoiser",
    "eval.evaluators": _EVALUATORS,
    "eval.denoiser_examples": 4_000,
    "eval.denoiser_levels": (0.01, 0.1, 0.3),
}
_SIZES = {
    "cpu": cifar10_small(_ALL, _WITH_PSNR, seeds=2),
    "gpu": cifar10(_ALL, _WITH_PSNR, seeds=3),
    "paper": imagenet(_EVALUATORS, _PROBES),
}

REPRESENTATION = Study(
    name="representation",
    title="What makes the latent a representation",
    where="Table 1, F.1",
    rows=(
        Row(_SODA, fields=_LAYERS),
        *(Row(name, name, {} if name in _OTHERWISE_MODULATED else _LAYERS) for name in _ABLATIONS),
        Row("Uncond", "Uncond", _DENOISER | _LAYERS, printed={"probe": 24.5}),
        Row("Palette", "Palette", _DENOISER | _LAYERS),
        Row("EncDec", "EncDec", _LAYERS),
        Row("AutoEnc", "AutoEnc", _LAYERS),
    ),
    claims=beats(_SODA, (*_ABLATIONS, *_BASELINES), "probe", "SODA's latent classifies better than {}", "Table 1"),
    sizes=_SIZES,
    printed={"probe": Printed("imagenet2012", "probe/top1", ("Table 1", "Table 9"))},
    curves=("probe/mean", "eval/loss"),
    notes=(
        "The paper's figures are top-1 accuracies on ImageNet.",
        "Uncond and Palette have no latent: their features are those of the denoiser's best block and noise level.",
    ),
)

_BOTH, _SOURCE, _TARGET, _NONE = "source and target", "source alone", "target alone", "neither"

AUGMENTATION = Study(
    name="augmentation",
    title="Which views are augmented",
    where="Figure 6",
    rows=(
        Row(_BOTH, fields=_LAYERS),
        Row(_SOURCE, fields=_LAYERS | {"data.augment_target": False}),
        Row(_TARGET, fields=_LAYERS | {"data.augment_source": False}),
        Row(_NONE, fields=_LAYERS | {"data.augment_source": False, "data.augment_target": False}),
    ),
    claims=beats(
        _BOTH, (_SOURCE, _TARGET, _NONE), "probe", "Augmenting source and target classifies better than {}", "Figure 6"
    ),
    sizes=_SIZES,
    curves=("probe/mean", "eval/loss"),
    notes=(
        "The figure's numbers are not in the text that was at hand: the claims' direction is that of Section 3.3, "
        "where novel views are what the model learns from.",
    ),
)


def _ratio(value: float) -> Row:
    return Row(f"ratio {value:g}", fields=_LAYERS | {"model.encoder.lr_multiplier": value})


LEARNING_RATE_RATIO = Study(
    name="learning_rate_ratio",
    title="The encoder's learning rate over the denoiser's",
    where="Section 3.4, C",
    rows=tuple(map(_ratio, (2.0, 0.5, 1.0, 4.0))),
    claims=beats(
        "ratio 2",
        ("ratio 1", "ratio 0.5"),
        "probe",
        "An encoder that learns twice as fast classifies better than {}",
        "3.4, C",
    ),
    sizes={
        "cpu": cifar10_small(_EVALUATORS, _PROBES, seeds=2),
        "gpu": cifar10(_EVALUATORS, _PROBES, seeds=3),
        "paper": imagenet(_EVALUATORS, _PROBES),
    },
    curves=("probe/mean", "eval/loss"),
)

STUDIES = (REPRESENTATION, AUGMENTATION, LEARNING_RATE_RATIO)
