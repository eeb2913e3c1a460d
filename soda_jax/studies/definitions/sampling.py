"""Figure 9 and G.4: how many steps samples take, and how strongly they are guided, all on one checkpoint."""

import dataclasses

from soda_jax.studies.definition import Claim, Row, Size, Study
from soda_jax.studies.definitions.shared import cifar10, imagenet

_STEPS = (10, 25, 50, 75, 250)
_STRENGTHS = (1.0, 1.5, 3.0, 4.0)
_PAPER = "100 steps guidance 2"
_COLUMNS = {"psnr": "reconstruction/psnr", "ssim": "reconstruction/ssim"}
_WHOLE = {"data__view_policy": "same", "data__augment_source": False, "data__augment_target": False}
_ONLY = {"eval.evaluators": ("reconstruction",), "eval.baselines": False}


def _sampled(steps: int, strength: float) -> dict[str, object]:
    return {
        "sampling.method": "ddpm",
        "sampling.num_steps": steps,
        "sampling.guidance_scale": strength,
        "sampling.pictures": ("grid",),
    }


def _size(size: Size, **fields: object) -> Size:
    settings = dict(size.fields) | _ONLY | {name.replace("__", "."): value for name, value in fields.items()}
    return dataclasses.replace(size, columns=_COLUMNS, fields=settings)


SAMPLING = Study(
    name="sampling",
    title="Steps and strength of guidance",
    where="Figure 9, G.4",
    rows=(
        Row(_PAPER, fields=_sampled(100, 2.0)),
        *(Row(f"{steps} steps", fields=_sampled(steps, 2.0), checkpoint_of=_PAPER) for steps in _STEPS),
        *(
            Row(f"guidance {strength:g}", fields=_sampled(100, strength), checkpoint_of=_PAPER)
            for strength in _STRENGTHS
        ),
    ),
    claims=(
        Claim("75 steps are better than 10", "75 steps", ">", "10 steps", "ssim", "Figure 9, G.4"),
        Claim("100 steps are better than 25", _PAPER, ">", "25 steps", "ssim", "Figure 9, G.4"),
        Claim("Guidance of 2 is better than none", _PAPER, ">", "guidance 1", "ssim", "Figure 9, G.4"),
        Claim("Guidance of 2 is better than of 4", _PAPER, ">", "guidance 4", "ssim", "Figure 9, G.4"),
    ),
    sizes={
        "cpu": Size("scenes", _COLUMNS, _ONLY | {"eval.reconstruction_examples": 128}, seeds=3),
        "gpu": _size(cifar10((), {}, 3), **_WHOLE),
        "paper": _size(imagenet((), {}), data__view_policy="same"),
    },
    curves=("eval/loss", "probe/mean"),
    notes=(
        "All rows measure the same checkpoint. Seeds are trainings and the noise of samples; with --checkpoint=PLACE "
        "they are the noise alone.",
        "The model that comes along as `scenes` fits the size `cpu`.",
        "The figure's numbers are not in the text that was at hand: the claims follow the ranges that the paper uses, "
        "75 to 250 steps at a strength of 2 to 3.",
    ),
)

STUDIES = (SAMPLING,)
