"""The figures of `--mode=plan` as tables."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from tabulate import tabulate

from soda_jax.performance import traffic

GIB = 2**30
CHIPS_GIB = (16, 32, 80)  # to say what fits for where devices are simulated
USABLE = 0.9  # of a chip's memory; the rest is the runtime's, and the compiler's margin
_UNKNOWN = "unknown"


def report(config: ConfigDict, figures: Mapping[str, Any]) -> str:
    """The figures of `plan` as tables.

    Args:
      config: the planned run's.
      figures: what `plan` returns, or what its JSON file holds.
    """
    parts = [_steps(config, figures), _sources(config, figures), _evaluations(figures), _collectives(figures)]
    parts += [_traffic(figures), _rooflines(config, figures), _fits(config, figures)]
    return "\n".join(part for part in parts if part)


def _place(step: Mapping[str, Any]) -> str:
    return step["place"] or str(step["devices"])


def _heading(figures: Mapping[str, Any]) -> str:
    """What the first column names: topologies, or numbers of simulated devices."""
    return "topology" if any(step["chip"] != "cpu" for step in figures["steps"]) else "devices"


def _table(rows: list[list[Any]], headers: list[str]) -> str:
    return tabulate(rows, headers, disable_numparse=True, stralign="right")


def _steps(config: ConfigDict, figures: Mapping[str, Any]) -> str:
    batch, real = config.train.batch_size, _heading(figures) == "topology"
    rows = []
    for step in figures["steps"]:
        refused = step["sent"] is None
        row = [_place(step), *([step["devices"]] if real else []), step["microbatch"], f"{step['state'] / GIB:.2f}"]
        if real:
            row.append(_UNKNOWN if refused else f"{step['temporaries'] / GIB:.2f}")
        row += [
            f"{max(step['total'], step['evaluation']) / GIB:.2f}",
            _short(figures["flops_per_example"] * batch / step["devices"] / 1e12),
            _UNKNOWN if refused else f"{step['sent'] / 1e9:.2f}",
        ]
        if real:
            row.append(_UNKNOWN if refused else f"{sum(share['kernels'] for share in step['traffic']):,}")
        rows.append([*row, f"{step['seconds']:.0f}"])
    headers = [_heading(figures), *(["devices"] if real else []), "microbatch", "state GiB"]
    headers += [*(["temporaries GiB"] if real else []), "peak GiB", "TFLOPs a step", "GB sent a step"]
    headers += [*(["kernels a step"] if real else []), "compiled in s"]
    return (
        f"One device's part of a step: batch {batch} in {config.train.grad_accum_steps} microbatches, "
        f"{config.model.dtype}, fsdp={config.train.fsdp}, {figures['parameters'] / 1e6:.1f}M parameters\n"
        + _table(rows, headers)
    )


def _sources(config: ConfigDict, figures: Mapping[str, Any]) -> str:
    """What steps with fewer sources save, where there are any."""
    data, most = config.data, figures["flops_per_example"]
    mean = figures.get("mean_flops_per_example", most)  # not in files of earlier releases
    if mean == most:
        return ""
    return (
        f"All of this is of a step that shows {data.num_sources} sources, the most. Steps show {data.min_sources} to "
        f"{data.num_sources}, each number as often, and take {_short(mean / 1e9)} GFLOPs an example on average, "
        f"{1 - mean / most:.0%} less than the {_short(most / 1e9)} of that step."
    )


def _evaluations(figures: Mapping[str, Any]) -> str:
    evaluations = [
        f"{step['evaluation'] / GIB:.2f} GiB on {step['devices']}" for step in figures["steps"] if step["evaluation"]
    ]
    if not evaluations:
        return ""
    return (
        "An evaluation in training holds the whole EMA and probe on every device beside its part of the state: "
        f"{', '.join(evaluations)} devices, without its activations; the peak is the step's or this, if larger."
    )


def _collectives(figures: Mapping[str, Any]) -> str:
    exchanged = [
        [_place(step), collective["kind"], collective["group"], collective["count"], f"{collective['size'] / 1e6:,.1f}"]
        for step in figures["steps"]
        for collective in step["collectives"]
    ]
    if not exchanged:
        return ""
    return "Collectives:\n" + _table(exchanged, [_heading(figures), "collective", "group", "times a step", "MB a step"])


def _traffic(figures: Mapping[str, Any]) -> str:
    """By source, a topology a column."""
    steps = [step for step in figures["steps"] if step["traffic"]]
    if not steps:
        return ""
    found = [{share["source"]: share for share in step["traffic"]} for step in steps]
    rows = [
        [
            source,
            *(
                _moved(shares[source]["moved"], shares[source]["kernels"]) if source in shares else ""
                for shares in found
            ),
        ]
        for source in traffic.SOURCES
        if any(source in shares for shares in found)
    ]
    totals = [
        [sum(share[key] for share in step["traffic"]) for key in ("moved", "kernels", "padding")] for step in steps
    ]
    rows.append(["all", *(_moved(moved, kernels) for moved, kernels, _ in totals)])
    if any(padding for *_, padding in totals):
        rows.append(["of it padding to tiles", *(f"{padding / moved:.0%}" for moved, _, padding in totals)])
    return "GB to and from a chip's memory in a step (kernels):\n" + tabulate(
        rows, ["", *map(_place, steps)], disable_numparse=True, colalign=("left", *["right"] * len(steps))
    )


def _moved(size: float, kernels: int) -> str:
    return f"{_short(size / 1e9)} ({kernels:,})"


def _short(value: float) -> str:
    """A decimal, or two figures of what is smaller."""
    return f"{value:,.1f}" if value >= 1 or value == 0 else f"{value:.2g}"


def _rooflines(config: ConfigDict, figures: Mapping[str, Any]) -> str:
    batch, rows = config.train.batch_size, []
    for place, found in figures["rooflines"].items():
        milliseconds = [_short(found[part] * 1e3) for part in ("traffic", "arithmetic", "at_least", "in_turn")]
        rows.append([place, *milliseconds, f"{batch / found['in_turn']:,.0f} to {batch / found['at_least']:,.0f}"])
    if not rows:
        return ""
    headers = ["topology", "traffic, ms", "arithmetic, ms", "at least, ms", "in turn, ms", "examples/s"]
    return (
        "A step by the roofline, at the bandwidth and bfloat16 peak of data sheets: at least the longer of traffic and "
        "arithmetic, or both in turn:\n"
        + _table(rows, headers)
        + "\nIt leaves out the launches of kernels, the algorithms that "
        "cuDNN chooses and their workspaces, what matrix units lose to small or odd shapes, what remat computes again, "
        "exchanges between chips that hide behind nothing, and the host: a real step takes longer."
    )


def _fits(config: ConfigDict, figures: Mapping[str, Any]) -> str:
    """A table for each chip, since a step's memory is told of each."""
    return "\n".join(_fits_of(config, figures, chip) for chip in figures["lines"])


def _fits_of(config: ConfigDict, figures: Mapping[str, Any], chip: str) -> str:
    line = figures["lines"][chip]
    steps = [step for step in figures["steps"] if step["chip"] == chip]
    fits = {_place(step): figures["fits"][_place(step)] for step in steps}
    sizes = list(next(iter(fits.values())))
    shares = [config.train.batch_size // step["devices"] for step in steps]
    rows = [
        [place, *(_fit_text(of_place[size], line["is_bound"], share) for size in sizes)]
        for (place, of_place), share in zip(fits.items(), shares, strict=True)
    ]
    per_example = line["bytes_per_example"] / 2**20
    on = "" if chip == "cpu" else f" on {chip}"
    peak = f"A step's peak{on} = {line['fixed_bytes'] / GIB:.2f} GiB + {per_example:.1f} MiB an example."
    if line["is_bound"]:
        peak = (
            f"A step's peak{on} is at most {per_example:.1f} MiB an example: a microbatch of another size takes nearly "
            "the same, so that what an example takes cannot be told, and more may fit than is said here."
        )
    return (
        f"{peak} In {USABLE:.0%} of a chip's memory fit, as a device's microbatch, and as the fewest microbatches of "
        f"{config.train.batch_size}:\n" + _table(rows, [_heading(figures), *(f"{size} GiB" for size in sizes)])
    )


def _fit_text(fit: Mapping[str, int | None], is_bound: bool, share: int) -> str:
    if fit["grad_accum_steps"] is None:
        return "may not fit" if is_bound else "does not fit"
    if fit["microbatch"] == share:
        return f"all {share}, 1 step"
    return f"{'at least ' * is_bound}{fit['microbatch']}, {fit['grad_accum_steps']} steps"
