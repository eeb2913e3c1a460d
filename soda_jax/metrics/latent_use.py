"""How much a denoiser uses its latent, from its losses with an image's own latent, with another image's, with none.

A latent is used where the right one makes the loss smaller than a wrong one does, and smaller than none. Both are
needed: to a denoiser that never learned to read latents, as where training hid them all, every one is a disturbance.
"""

from collections.abc import Mapping

import numpy as np

LEVELS = 4  # of noise: equal parts of the timesteps
LATENTS = ("own", "other", "none")
SAVED = ("saved", "saved_none")  # by the own latent, of the loss with another's and with none
GROUP = "latent_use"  # the first part of the figures' names

LEAST_SAVED = 0.02  # share of the loss that a latent in use saves at one noise level at least
MOST_HIDDEN = 0.5  # latent_mask_rate above which the masking itself may be the cause
YOUNG_STEPS = 1000  # below which no run is judged
YOUNG_SHARE = 0.05  # of the whole run, likewise

# What the figures say: the latent is used; it is not, but the run is young; it is ignored; too few images tell.
USED, YOUNG, IGNORED, UNCLEAR = "used", "young", "ignored", "unclear"

_WITH = {"own": "an image's own latent", "other": "another image's", "none": "none"}


def level_edges(num_timesteps: int) -> np.ndarray:
    """Where the noise levels meet: level l has the timesteps edges[l] + 1 .. edges[l + 1].

    Equal parts of the timesteps, which training draws uniformly: each level is an equal part of the loss that is
    minimised, whatever the schedule, and the mean over the levels is that loss.
    """
    return np.rint(np.linspace(0, num_timesteps, min(LEVELS, num_timesteps) + 1)).astype(int)


def suffixes(levels: int = LEVELS) -> tuple[str, ...]:
    """What the figures' names end in: "" over all noise levels, then each level's, from little noise to much."""
    return ("", *(f"_t{level}" for level in range(levels)))


def figures(losses: np.ndarray) -> dict[str, float]:
    """The figures of an evaluation, by their names in metrics.jsonl.

    Args:
      losses: [levels, 3, N], of N images at each noise level with each of `LATENTS`.

    Returns:
      For each of `suffixes`: `latent_use/own`, `other` and `none`, the mean losses; `saved`, 1 - own / other, and
      `saved_none`, 1 - own / none, the shares of these losses that the own latent saves; `saved_error` and
      `saved_none_error`, their standard errors over the images. {} for fewer than two images.
    """
    losses = np.asarray(losses, np.float64)
    if losses.shape[-1] < 2:
        return {}
    found = {}
    for suffix, part in zip(suffixes(len(losses)), (losses.mean(axis=0), *losses), strict=True):
        for name, values in zip(LATENTS, part, strict=True):
            found[f"{GROUP}/{name}{suffix}"] = float(values.mean())
        for name, without in zip(SAVED, part[1:], strict=True):
            found[f"{GROUP}/{name}{suffix}"], found[f"{GROUP}/{name}_error{suffix}"] = _saved(part[0], without)
    return found


def _saved(own: np.ndarray, without: np.ndarray) -> tuple[float, float]:
    """(1 - mean own / mean without, its standard error), of paired losses [N] of the same noised images."""
    if not without.mean() > 0:  # nothing to save, or no number
        return float("nan"), float("nan")
    ratio = own.mean() / without.mean()
    # The ratio's error to first order. Images differ far more than latents do: only pairs show the difference.
    residuals = own - ratio * without
    return float(1 - ratio), float(residuals.std(ddof=1) / np.sqrt(len(own)) / without.mean())


def verdict(found: Mapping[str, float], step: int, settled: int) -> str:
    """USED, YOUNG, IGNORED or UNCLEAR, by the figures of the evaluation at `step`.

    The latent is used where at any noise level both shares of `SAVED` reach `LEAST_SAVED`, and are three standard
    errors above zero. It is ignored where at every level one of them cannot reach that, being two standard errors or
    more below: so chance alone does not make it so, and with few images nothing is said.

    Args:
      found: of `figures`.
      settled: the step from which on a run is judged, by `settled_at`.
    """
    levels = [suffix for suffix in suffixes()[1:] if f"{GROUP}/saved{suffix}" in found]
    # [2, levels]; a figure that was no number is missing from metrics.jsonl.
    saved = np.array([[found.get(f"{GROUP}/{name}{level}", np.nan) for level in levels] for name in SAVED])
    error = np.array([[found.get(f"{GROUP}/{name}_error{level}", np.nan) for level in levels] for name in SAVED])
    if np.any(np.all((saved >= LEAST_SAVED) & (saved > 3 * error), axis=0)):
        return USED
    if step < settled:
        return YOUNG
    return IGNORED if levels and np.all(np.any(saved + 2 * error < LEAST_SAVED, axis=0)) else UNCLEAR


def settled_at(num_steps: int, warmup_steps: int, ema_decay: float, ema_warmup: bool) -> int:
    """The step from which on a denoiser should use its latent; before, any run has an excuse.

    Args:
      num_steps: of the whole run.
      warmup_steps: of the learning rate, which in this time is small; half of it again goes by until that has told.
      ema_decay, ema_warmup: of the averaged weights that are measured; without the warm-up they are those that the run
        began with, for the most part, through 1 / (1 - decay) steps.
    """
    lag = 0 if ema_warmup else 3 / max(1 - ema_decay, 1e-6)
    return int(max(YOUNG_STEPS, YOUNG_SHARE * num_steps, 1.5 * warmup_steps, lag))


def in_words(judged: str, found: Mapping[str, float], settled: int, latent_mask_rate: float) -> str:
    """What a verdict means, and for one that is no good where to look.

    Args:
      judged: by `verdict`, of `found`.
      settled: as `verdict` takes it.
      latent_mask_rate: share of the training examples from which the latent is hidden.
    """
    saved, of_none = (f"{found.get(f'{GROUP}/{name}', np.nan):.1%}" for name in SAVED)
    saves = f"an image's own saves {saved} of the loss with another image's, and {of_none} of that with none"
    if judged == USED:
        return f"The denoiser uses the latent: {saves}."
    if judged == YOUNG:
        return f"The denoiser hardly uses the latent yet. The run is young: it is judged from step {settled:,} on."
    if judged == UNCLEAR:
        return f"Whether the denoiser uses the latent is unclear: {saves}. That is little, or too uncertain."
    losses = ", ".join(f"{found[f'{GROUP}/{name}']:.4g} with {text}" for name, text in _WITH.items())
    hidden = f" config.diffusion.latent_mask_rate={latent_mask_rate:g} hides it in training."
    return (
        f"The denoiser ignores the latent: the loss is {losses}, and at no noise level does the own one save "
        f"{LEAST_SAVED:.0%} of both others.{hidden if latent_mask_rate > MOST_HIDDEN else ''} docs/troubleshooting.md, "
        "'The denoiser ignores the latent', says what to look at."
    )
