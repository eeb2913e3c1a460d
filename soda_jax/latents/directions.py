"""Directions in the latent: lines along which real codes spread, and moves on them (SODA Appendix E.3).

Strengths are in sigma, the standard deviation of the real codes' projection: one sigma of any direction is a step of
the size that real images take there.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from soda_jax.latents.checks import checked_codes, checked_number
from soda_jax.latents.sections import dims_of

MODES = ("add", "set")
PERCENTILES = (0.1, 99.9)  # of the real codes' projection: what lies beyond, hardly any image shows
_LEAST_FREE = 0.05  # share of a direction's square that must be left when others are held


class StrengthWarning(UserWarning):
    """An edit goes beyond where real codes lie."""


@dataclasses.dataclass(frozen=True, eq=False)
class Direction:
    """A line through the latent, with the real codes' spread along it.

    Attributes:
      vector: float64 [d] of unit length, 0 outside `sections`.
      mean: of the real codes' projection on it, z @ vector.
      std: of that projection, what one sigma is.
      low, high: the projection's 0.1 and 99.9 percentiles, in sigma from the mean.
      name: how files and commands call it, as "pca1" or "object_hue".
      kind: how it was found, as "pca", "standardised", "means", "weights", "axis".
      source: what it was found on, in a few words.
      sections: the range "a-b" of sections that it moves; None: the whole latent.
      num_sections: of the latent; 0 where it has none.
      model: SHA-256 of the float32 EMA weights that the codes are of; "": of no known model.
    """

    vector: np.ndarray
    mean: float
    std: float
    low: float
    high: float
    name: str
    kind: str
    source: str = ""
    sections: str | None = None
    num_sections: int = 0
    model: str = ""

    def position(self, codes: np.ndarray) -> np.ndarray:
        """Where codes [N, d] lie on the line, [N], in sigma from the real codes' mean."""
        return (checked_codes(codes, width=len(self.vector)) @ self.vector - self.mean) / self.std

    @property
    def dims(self) -> np.ndarray:
        """bool [d], the dimensions of the sections that it moves."""
        return dims_of(self.sections, len(self.vector), self.num_sections)

    def describe(self) -> str:
        """One line: name, sections, source, and what the real codes do along it."""
        where = "whole latent" if self.sections is None else f"sections {self.sections}"
        parts = [self.name, where, *([self.source] if self.source else [])]
        return f"{', '.join(parts)} (real codes {self.low:+.1f} to {self.high:+.1f} sigma)"


def measured(
    vector: np.ndarray,
    codes: np.ndarray,
    *,
    name: str,
    kind: str,
    source: str = "",
    sections: str | None = None,
    num_sections: int = 0,
    model: str = "",
) -> Direction:
    """A direction along `vector` [d], of any length, with the spread of real codes [N, d] along it.

    Outside the range of `sections` the vector is set to 0.

    Raises:
      ValueError: a vector that is 0 or not finite there, fewer than two codes, or codes that do not vary along it.
    """
    codes = checked_codes(codes, least=2)
    vector = checked_codes(np.asarray(vector)[None], f"the vector of {name!r}", width=codes.shape[1])[0]
    vector = np.where(dims_of(sections, len(vector), num_sections), vector, 0.0)
    length = np.linalg.norm(vector)
    if length == 0:
        where = "" if sections is None else f" in sections {sections}"
        raise ValueError(f"the vector of direction {name!r} is 0{where}; there is nothing to move along")
    vector = vector / length
    projection = codes @ vector
    mean, std = float(projection.mean()), float(projection.std(ddof=1))
    if std <= 1e-12 * max(1.0, float(np.abs(projection).max())):
        raise ValueError(f"the codes do not vary along direction {name!r}: a sigma there has no size")
    low, high = (np.percentile(projection, PERCENTILES) - mean) / std
    return Direction(vector, mean, std, float(low), float(high), name, kind, source, sections, num_sections, model)


def within(direction: Direction, sections: str, codes: np.ndarray) -> Direction:
    """The part of a direction that lies in a range of sections, with the spread of `codes` [N, d] along that part.

    Raises:
      ValueError: the latent has no sections, the range is none of them, or the direction is 0 there.
    """
    if direction.num_sections == 0:
        raise ValueError(f"sections={sections!r}: this model's latent has no sections; leave sections out")
    return measured(
        direction.vector,
        codes,
        name=f"{direction.name}_sections_{sections}",
        kind=direction.kind,
        source=direction.source,
        sections=sections,
        num_sections=direction.num_sections,
        model=direction.model,
    )


@dataclasses.dataclass(frozen=True)
class Held:
    """What holding other directions leaves of one.

    Attributes:
      cosine: of the direction with each held one.
      remaining: share of the direction's length that is left, 1 where all are orthogonal.
    """

    cosine: dict[str, float]
    remaining: float


def hold(direction: Direction, held: Sequence[Direction]) -> tuple[np.ndarray, Held]:
    """A step [d] of one sigma along `direction` that moves no code along any of `held`.

    The held directions are projected out; the step is longer where they overlap, so that the projection on `direction`
    still changes by one sigma.

    Raises:
      ValueError: directions of other widths, or so close to the held ones that hardly anything is left.
    """
    for other in held:
        _same_space(direction, other)
    cosine = {other.name: float(direction.vector @ other.vector) for other in held}
    free = direction.vector
    if held:
        basis = np.linalg.svd(np.stack([other.vector for other in held]), full_matrices=False)
        rows = basis.Vh[basis.S > 1e-10 * basis.S[0]]
        free = free - rows.T @ (rows @ free)
    square = float(free @ free)
    if square < _LEAST_FREE:
        shown = ", ".join(f"{name} (cosine {value:+.2f})" for name, value in cosine.items())
        raise ValueError(f"direction {direction.name!r} has nothing left when {shown} is held; hold fewer, or others")
    return direction.std * free / square, Held(cosine, square**0.5)


def move(
    codes: np.ndarray,
    strengths: Mapping[Direction, float] | Sequence[tuple[Direction, float]],
    *,
    mode: str = "add",
    held: Sequence[Direction] = (),
) -> np.ndarray:
    """Codes [N, d] moved along directions.

    Args:
      strengths: {direction: sigma}, or pairs (direction, sigma).
      mode: "add" moves by that many sigma along each, one after the other; "set" moves to that many sigma from the
        real codes' mean, along all of them at once where they are not orthogonal.
      held: directions along which no code may move.

    Returns:
      float64 [N, d].

    Raises:
      ValueError: nothing to move along, strengths that are not finite, an unknown mode, directions that do not fit the
        codes or each other.

    Warns:
      StrengthWarning: results lie beyond the real codes' percentiles.
    """
    pairs = list(strengths.items() if isinstance(strengths, Mapping) else strengths)
    if not pairs:
        raise ValueError("no direction to move along; give at least one")
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: choose one of {', '.join(MODES)}")
    for direction, _ in pairs[1:]:
        _same_space(pairs[0][0], direction)
    codes = checked_codes(codes, width=len(pairs[0][0].vector))
    steps = np.stack([hold(direction, held)[0] for direction, _ in pairs])  # [K, d]
    sigmas = np.array([checked_number(sigma, f"sigma of {direction.name!r}") for direction, sigma in pairs])
    if mode == "add":
        amounts = np.broadcast_to(sigmas, (len(codes), len(pairs)))
    else:
        wanted = sigmas - np.stack([direction.position(codes) for direction, _ in pairs], axis=1)
        # How many sigma each step moves along each direction: the identity where they are orthogonal.
        gains = np.stack([steps @ direction.vector / direction.std for direction, _ in pairs], axis=1)
        if np.linalg.matrix_rank(gains, tol=1e-6) < len(pairs):
            names = ", ".join(direction.name for direction, _ in pairs)
            raise ValueError(f"directions {names} depend on each other, so they cannot all be set; set fewer")
        amounts = np.linalg.solve(gains.T, wanted.T).T
    moved = codes + amounts @ steps
    for direction, _ in pairs:
        warn_beyond(direction, codes, moved)
    return moved


def warn_beyond(direction: Direction, before: np.ndarray, after: np.ndarray) -> None:
    """Warns if a move of codes [N, d] took any beyond the real codes' percentiles along the direction."""
    start, end = direction.position(before), direction.position(after)
    slack = 1e-6
    out = ((end > direction.high + slack) & (end > start + slack)) | (
        (end < direction.low - slack) & (end < start - slack)
    )
    if out.any():
        warnings.warn(
            f"{direction.name}: edited codes lie at {end.min():+.2f} to {end.max():+.2f} sigma, where 99.8% of the "
            f"real ones lie at {direction.low:+.2f} to {direction.high:+.2f}; what is shown there, no image taught the "
            "model",
            StrengthWarning,
            stacklevel=3,
        )


def _same_space(first: Direction, other: Direction) -> None:
    if first.vector.shape != other.vector.shape:
        raise ValueError(
            f"directions {first.name!r} and {other.name!r} have {len(first.vector)} and {len(other.vector)} "
            "dimensions: they are of different models"
        )
    if first.model and other.model and first.model != other.model:
        raise ValueError(f"directions {first.name!r} and {other.name!r} are of different models' weights")
