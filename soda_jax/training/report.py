"""What a run says at its end."""

import pathlib

import numpy as np
from tabulate import tabulate

from soda_jax.models.capabilities import LATENT, SOURCE, can
from soda_jax.objectives.step import TrainStep
from soda_jax.training.monitor import Monitor


def report(
    train_step: TrainStep,
    results: dict[str, float],
    split: str,
    monitor: Monitor,
    grid: pathlib.Path | str | None,
    workdir: str,
) -> None:
    """Prints the online probe's table, where the last grid is, which step was best, and how to load the encoder.

    Args:
      results: metrics of the last evaluation.
      split: the held-out split's name.
      monitor: what was watched, if anything.
    """
    if train_step.probe is not None and "probe/mean" in results:
        print(f"\nOnline linear probe, accuracy on held-out '{split}' examples:")
        print(probe_table(train_step, results))
    model = train_step.objective.model
    print(f"\n{'Reconstructions' if can(model, SOURCE) else 'Samples'}: {grid if grid is not None else 'none drawn'}")
    print(f"Load the {'encoder' if can(model, LATENT) else 'model'} with soda_jax.load({workdir!r})")
    if monitor.best_step is not None:
        print(
            f"Best {monitor.metric} on '{monitor.split}': {monitor.best:.4f} at step {monitor.best_step}; "
            f"soda_jax.load({workdir!r}, step='best') loads that one"
        )


def ended_early(monitor: Monitor, step: int, num_steps: int, before: bool) -> str:
    """Says why a run ended before its last step.

    Args:
      before: it had ended in an earlier session, and this one trained nothing.
    """
    when = "had ended" if before else "ended"
    remedy = "; to train on, raise config.train.patience" if before else ""
    return f"\nTraining {when} at step {step} of {num_steps}: {monitor.reason}{remedy}"


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
