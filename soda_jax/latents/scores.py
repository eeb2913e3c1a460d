"""What an edit did, from the codes of its results: a model with an encoder can look at its own pictures.

An edit asks for a shift of the code along a direction; its result is drawn and encoded again. `before` are the codes of
the *unedited* image, drawn from the same noise and encoded again, and `after` those of the edited one. Both have passed
decoder and encoder: what these do not give back exactly counts on both sides, and is no edit.

Shifts are in sigma, the standard deviation of the real codes along the direction, as strengths are. On a model whose
encoder is its decoder's inverse all is exact: slope 1, rank correlation 1, leakage 0, every strength safe.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from soda_jax.latents.directions import Direction
from soda_jax.latents.finding import class_weights
from soda_jax.latents.probing import LabelProbe


def realised(direction: Direction, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How far edits moved along the direction, in sigma: [...] from codes [..., d] that broadcast."""
    return _position(direction, after) - _position(direction, before)


def slope(requested: Sequence[float] | np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Slope of the line through the origin that fits realised to requested shifts best (least squares); 1 is ideal.

    Args:
      requested: sigmas, not all 0: [S], or [N, S] where images were asked for different shifts.
      shifts: realised, [S], or [..., N, S] of N images.

    Returns:
      [...].
    """
    shifts = np.atleast_2d(shifts)
    requested = np.broadcast_to(_finite(requested), shifts.shape[-2:])
    return (shifts * requested).sum(axis=(-2, -1)) / (requested**2).sum()


def ratios(requested: Sequence[float] | np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Mean realised over requested shift at each of the S sigmas, [S] from [N, S]; 1 is ideal."""
    return shifts.mean(axis=0) / _requested(requested)


def spearman(requested: Sequence[float] | np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Each image's rank correlation of realised and requested shifts, the unedited image (0, 0) among them.

    Args:
      requested: [S] sigmas.
      shifts: [N, S].

    Returns:
      [N] in -1..1: 1 where more asked for is always more; 0 where nothing moves.
    """
    asked = np.append(_requested(requested), 0.0)
    ranks = rankdata(np.append(shifts, np.zeros((len(shifts), 1)), axis=1), axis=1)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    wanted = rankdata(asked) - (len(asked) + 1) / 2
    lengths = np.linalg.norm(ranks, axis=1) * np.linalg.norm(wanted)
    return np.divide(ranks @ wanted, lengths, out=np.zeros(len(shifts)), where=lengths > 0)


def leaks(direction: Direction) -> bool:
    """Whether leakage is defined: the direction leaves sections alone."""
    return not direction.dims.all()


def shift_squares(direction: Direction, before: np.ndarray, after: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Mean squares of the codes' shifts within the sections that the direction moves, and in the others.

    Args:
      before, after: codes [..., d] that broadcast.
      std: [d], of the real codes, the unit in each dimension; dimensions in which they do not vary are left out.

    Returns:
      [..., 2]: within, and in the untouched sections.

    Raises:
      ValueError: the direction is of the whole latent.
    """
    if not leaks(direction):
        raise ValueError(f"direction {direction.name!r} moves the whole latent: nothing is left to leak into")
    varies = np.asarray(std) > 0
    squares = ((after - before) / np.where(varies, std, 1.0)) ** 2
    inside = direction.dims
    return np.stack([squares[..., inside & varies].mean(-1), squares[..., ~inside & varies].mean(-1)], axis=-1)


def leakage(direction: Direction, before: np.ndarray, after: np.ndarray, std: np.ndarray | None = None) -> float:
    """`leakage_of` codes [N, d], or [..., d] of all of these together.

    Args:
      std: [d], of the real codes; None: all dimensions have the same unit.

    Raises:
      ValueError: the direction is of the whole latent.
    """
    unit = np.ones(len(direction.vector)) if std is None else std
    return float(leakage_of(shift_squares(direction, before, after, unit).reshape(-1, 2)))


def leakage_of(squares: np.ndarray) -> np.ndarray:
    """How much the untouched sections moved for what the moved ones did; 0 is ideal, at 1 both move alike.

    Root of the mean over images of the untouched sections' mean squared shift, divided by the same of the moved ones.

    Args:
      squares: [..., N, 2] of `shift_squares`.

    Returns:
      [...]; infinite where only the untouched sections moved, 0 where nothing did.
    """
    inside, outside = np.moveaxis(squares.mean(axis=-2), -1, 0)
    share = np.divide(outside, inside, out=np.where(outside > 0, np.inf, 0.0), where=inside > 0)
    return np.sqrt(share)


def response(
    probe: LabelProbe, before: np.ndarray, after: np.ndarray, codes: np.ndarray, target: int | None = None
) -> np.ndarray:
    """Change of what a label's direction follows, the weighted sum of logits of `finding.class_weights`.

    Args:
      before, after: codes [..., d] that broadcast.
      codes: [M, d], real ones.
      target: the class that was moved toward; None: the higher classes.

    Returns:
      [...] in standard deviations over the real codes; above 0 is toward the target.
    """
    present = np.flatnonzero(np.isfinite(probe.bias))
    weights = class_weights(present, target)
    spread = (probe.logits(codes)[:, present] @ weights).std()
    change = _logits(probe, after)[..., present] - _logits(probe, before)[..., present]
    return change @ weights / (spread if spread > 0 else 1.0)


def dependency(
    probes: Mapping[str, LabelProbe], before: np.ndarray, after: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """Attribute dependency (Wu et al. 2021, StyleSpace): how much labels change that were not asked to.

    The absolute change of each class's logit in standard deviations over real codes, mean over a label's classes.
    Logits are taken relative to their mean over the label's classes: a softmax sees no more of them.

    Args:
      probes: of the labels, at least one.
      before, after: codes [..., d] that broadcast.
      codes: [M, d], real ones.

    Returns:
      [..., L], in the labels' order.
    """
    found = []
    for probe in probes.values():
        present = np.flatnonzero(np.isfinite(probe.bias))
        real, old, new = (
            logits[..., present] - logits[..., present].mean(axis=-1, keepdims=True)
            for logits in (probe.logits(codes), _logits(probe, before), _logits(probe, after))
        )
        spread = real.std(axis=0)
        found.append((np.abs(new - old) / np.where(spread > 0, spread, 1.0)).mean(axis=-1))
    return np.stack(found, axis=-1)


def safe_range(
    requested: Sequence[float] | np.ndarray,
    shifts: np.ndarray,
    leakages: Sequence[float] | np.ndarray | None = None,
    *,
    least_share: float = 0.5,
    most_leakage: float = 0.5,
) -> tuple[float, float]:
    """How far to either side an edit does what it says.

    From 0 outward, up to the last sigma at which the realised shift is still larger than at the one before and at least
    `least_share` of what was asked for, and leakage at most `most_leakage`.

    Args:
      requested: [S] sigmas.
      shifts: [S], mean realised shift at each.
      leakages: [S], at each; None where it is not defined.

    Returns:
      (lowest, highest) sigma; 0 on a side where already the first step fails, or none was asked for.
    """
    requested = _requested(requested)
    ends = []
    for sign in (-1.0, 1.0):
        end = last = 0.0
        for i in np.argsort(np.abs(requested)):
            if requested[i] * sign <= 0:
                continue
            moved = sign * float(shifts[i])
            leaked = leakages is not None and not leakages[i] <= most_leakage
            if moved <= last or moved < least_share * abs(requested[i]) or leaked:
                break
            end, last = float(requested[i]), moved
        ends.append(end)
    return ends[0], ends[1]


def _finite(requested: Sequence[float] | np.ndarray) -> np.ndarray:
    requested = np.asarray(requested, np.float64)
    if not np.isfinite(requested).all() or not requested.any():
        raise ValueError(f"requested={requested}: give finite strengths in sigma, not all of them 0")
    return requested


def _requested(requested: Sequence[float] | np.ndarray) -> np.ndarray:
    requested = _finite(requested)
    if requested.ndim != 1 or (requested == 0).any():
        raise ValueError(f"requested={requested}: give strengths [S]; one of 0 is no edit, leave it out")
    return requested


def _position(direction: Direction, codes: np.ndarray) -> np.ndarray:
    codes = np.asarray(codes)
    return direction.position(codes.reshape(-1, codes.shape[-1])).reshape(codes.shape[:-1])


def _logits(probe: LabelProbe, codes: np.ndarray) -> np.ndarray:
    """[..., C] of codes [..., d]."""
    codes = np.asarray(codes)
    return probe.logits(codes.reshape(-1, codes.shape[-1])).reshape(*codes.shape[:-1], -1)
