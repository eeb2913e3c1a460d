"""What a run says at its end."""

import pathlib

import numpy as np
from tabulate import tabulate

from soda_jax.objectives.step import TrainStep


def report(
    train_step: TrainStep, results: dict[str, float], split: str, grid: pathlib.Path | str | None, workdir: str
) -> None:
    """Prints the online probe's table, where the last grid is, and how to load the encoder.

    Args:
      results: metrics of the last evaluation.
      split: the held-out split's name.
    """
    if train_step.probe is not None and "probe/mean" in results:
        print(f"\nOnline linear probe, accuracy on held-out '{split}' examples:")
        print(probe_table(train_step, results))
    print(f"\nReconstructions: {grid if grid is not None else 'none drawn'}")
    print(f"Load the encoder with soda_jax.load({workdir!r})")


def probe_table(train_step: TrainStep, results: dict[str, float]) -> str:
    """A row for each label, with the accuracy of guessing."""
    probe = train_step.probe
    rows = []
    for name, size in zip((*probe.task.names, "mean"), (*probe.task.sizes, None), strict=True):
        chance = 1 / size if size else np.mean([1 / s for s in probe.task.sizes])
        row = [name, f"{chance:.3f}"]
        row += [f"{results[f'{p}/{name}']:.3f}" for p in ("probe_pixels", "probe") if f"{p}/{name}" in results]
        rows.append(row)
    latent = f"{train_step.objective.model.title} latent"
    headers = ["label", "chance", *(["raw pixels"] if probe.raw_pixels else []), latent]
    return tabulate(rows, headers=headers, disable_numparse=True)
