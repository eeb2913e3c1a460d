"""What the names of an evaluation's figures mean: their group, wording, unit and direction."""

import dataclasses
import re

from soda_jax.config.evaluators import EVALUATORS
from soda_jax.metrics.registry import IMAGE_METRICS

PERCENT = "%"
_DCI = {
    "d": "disentanglement (D)",
    "c": "completeness (C)",
    "i": "informativeness (I)",
    "i_train": "informativeness of the training codes",
    "dci": "mean of D, C and I",
    "mig": "MIG",
    "sap": "SAP",
    "factor_vae": "FactorVAE score",
}
_FACTS = {  # no scores
    "level": "noise level chosen",
    "learning_rate": "learning rate chosen",
    "examples": "labelled examples",
}
_GRID = "denoiser"  # blocks and noise levels to choose features from
_ONLINE = ("online_probe", "probe")  # measured by training, not by an evaluator
# By the start of a figure's name.
_GROUPS = {name: entry.heading for name, entry in EVALUATORS.items()} | dict.fromkeys(_ONLINE, "Online probe")
_GROUPS["latent_use"] = "Use of the latent"  # measured by training, too
_GROUPS[_GRID] = "Blocks of the denoiser, k-NN on held-out training examples"
ORDER = tuple(dict.fromkeys(_GROUPS.values()))


@dataclasses.dataclass(frozen=True)
class Metric:
    """One figure's meaning.

    Attributes:
      name: as evaluations write it, "evaluator/metric".
      group: the heading that it belongs under.
      label: its wording below that heading.
      unit: "%" (stored as a share of 1), "dB" or "".
      digits: behind the point, in its unit; None for three significant ones.
      direction: "up" or "down" is better; "" for what is no score.
      paper: the key under which `paper` has it; "" where the paper has nothing like it.
      main: one of the figures that its group shows first, where there are many.
    """

    name: str
    group: str
    label: str
    unit: str = ""
    digits: int | None = None
    direction: str = ""
    paper: str = ""
    main: bool = False

    def number(self, value: float) -> str:
        """`value` as text in the metric's unit, without the unit."""
        return _round(value * 100 if self.unit == PERCENT else value, self.digits)


def _round(value: float, digits: int | None) -> str:
    if digits is not None:
        return f"{value:,.{digits}f}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


def describe(name: str) -> Metric:
    """The meaning of a figure; unknown names stay readable, in a group by the evaluator's name."""
    evaluator, _, rest = name.partition("/")
    *middle, leaf = rest.split("/")
    base, number = re.fullmatch(r"(.*?)_?(\d[\d.]*)?(?:pct)?", evaluator).groups()
    if leaf in _FACTS:
        group = _GROUPS.get(base, base.replace("_", " ").capitalize())
        return Metric(name, group, _join(_setting(base, number), _FACTS[leaf]))
    if base in _ONLINE or (base in EVALUATORS and EVALUATORS[base].accuracies):
        return _classification(name, base, _setting(base, number), [*middle, leaf])
    if base == _GRID and "@" in leaf:
        block, _, level = leaf.partition("@")
        return Metric(name, _GROUPS[base], f"{block}, t = {level} T", unit=PERCENT, digits=2, direction="up")
    if name == "diversity/std":
        return Metric(name, _GROUPS[base], "standard deviation of pixels in [0, 1]", digits=4, main=True)
    if leaf in IMAGE_METRICS:
        return _image(name, base, number, middle, leaf)
    if base == "disentanglement":
        return _disentanglement(name, middle, leaf)
    return Metric(name, _GROUPS.get(base, base.replace("_", " ").capitalize()), _plain([number, *middle, leaf]))


def _setting(base: str, number: str | None) -> str:
    if number is None:
        return ""
    if base == "knn":
        return f"k = {number}"
    if base == "few_shot":
        return f"{number} % of the labels"
    return number


def _classification(name: str, base: str, setting: str, parts: list[str]) -> Metric:
    leaf, score, paper = parts[-1], "accuracy", "top1"
    endings = (("_top5", "top-5 accuracy", "top5"), ("_f1", "F1", "f1"), ("_ap", "average precision", ""))
    for ending, wording, key in endings:
        if leaf.endswith(ending):
            leaf, score, paper = leaf.removesuffix(ending), wording, key
    words = [*parts[:-1], leaf]
    main = leaf in ("mean", "label")
    of = "" if leaf == "label" else ", mean of the labels" if leaf == "mean" else f", {_plain(words)}"
    comparable = base == "linear_probe" and (leaf == "label" if paper in ("top1", "top5") else leaf == "mean")
    return Metric(
        name,
        _GROUPS[base],
        _join(setting, f"{score}{of}"),
        unit=PERCENT,
        digits=2,
        direction="up",
        paper=f"probe/{paper}" if comparable and paper else "",
        main=main,
    )


def _image(name: str, base: str, number: str | None, middle: list[str], leaf: str) -> Metric:
    known = IMAGE_METRICS[leaf]
    wording, direction = known.label, known.direction
    setting = ""
    if number:
        setting = f"{number} source{'s' if number != '1' else ''}" if base == "novel_view" else number
    if base == "diversity":  # between samples: neither way is better
        wording, direction = f"{wording}, between samples", ""
    group = _GROUPS.get(base, base.replace("_", " ").capitalize())
    paper = ""
    if not middle and leaf in ("psnr", "ssim", "fid", "lpips_vgg16", "lpips_alexnet"):
        where = {"reconstruction": "reconstruction", "novel_view": f"novel_view{number}"}.get(base)
        paper = f"{where}/{leaf.partition('_')[0]}" if where else ""
    label = _join(_join(setting, _plain(middle)), wording)
    return Metric(name, group, label, unit=known.unit, digits=known.digits, direction=direction, paper=paper, main=True)


def _disentanglement(name: str, middle: list[str], leaf: str) -> Metric:
    label = _join(_plain(middle), _DCI.get(leaf, _plain([leaf])))
    if middle == ["i"]:
        label = f"{_DCI['i']}, {_plain([leaf])}"  # of one factor
    return Metric(
        name,
        _GROUPS["disentanglement"],
        label,
        unit=PERCENT,
        digits=2,
        direction="up",
        paper=f"dci/{leaf}" if not middle and leaf in ("d", "c", "i", "dci") else "",
        main=not middle,
    )


def _join(setting: str, text: str) -> str:
    return f"{setting}: {text}" if setting and text else setting or text


def _plain(parts: list[str | None]) -> str:
    return " ".join(part for part in parts if part).replace("_", " ")
