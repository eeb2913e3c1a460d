"""Frechet distance between two sets of features, as the Gaussians of their means and covariances (Heusel et al. 2017).

FID is this distance over the features of one network (`metrics.inception`); over any other it bears that one's name.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from soda_jax.metrics.bootstrap import Estimate

# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
GROUPS = len(_T) + 1


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean and scatter of features, in float64; those of two disjoint sets merge into those of both.

    Attributes:
      count: number of examples.
      mean: float64 [D].
      scatter: float64 [D, D], the sum over examples of (x - mean) (x - mean)^T. Deviations are taken from the set's own
        mean: sums of x x^T would lose their digits to cancellation.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, mask: np.ndarray | None = None) -> "FeatureStatistics":
        """The statistics of features [N, D]; N may be 0.

        Args:
          mask: bool [N], False on examples to leave out (padding). All count by default.

        Raises:
          ValueError: for other shapes, or features that are not finite.
        """
        features = np.asarray(features)
        if features.ndim != 2:
            raise ValueError(f"features have shape {features.shape}: give [N, D]")
        if mask is not None:
            if np.shape(mask) != features.shape[:1]:
                raise ValueError(f"mask has shape {np.shape(mask)}: give {features.shape[:1]}, one an example")
            features = features[np.asarray(mask, bool)]
        features = features.astype(np.float64)
        if not np.isfinite(features).all():
            bad = int((~np.isfinite(features)).any(axis=1).sum())
            raise ValueError(
                f"features of {bad} of {len(features)} examples are not finite: the distance has no meaning"
            )
        mean = features.mean(axis=0) if len(features) else np.zeros(features.shape[1])
        deviations = features - mean
        return cls(len(features), mean, deviations.T @ deviations)

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """The statistics of both sets together (Chan et al. 1979)."""
        _check_dimensions(self, other)
        if not self.count or not other.count:
            return self if self.count else other
        count, shift = self.count + other.count, other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = np.outer(shift, shift) * (self.count * other.count / count)
        return FeatureStatistics(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased, float64 [D, D].

        Raises:
          ValueError: for fewer than 2 examples.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 examples, and there are {self.count}: take more images")
        return self.scatter / (self.count - 1)

    @functools.cached_property
    def factor(self) -> np.ndarray:
        """F [D, rank] with F F^T the covariance. Kept: half of a distance's cost."""
        values, vectors = np.linalg.eigh(self.covariance)
        # Below this, eigenvalues are rounding; their roots would be a hundred million times larger.
        real = values > values[-1] * len(values) * np.finfo(np.float64).eps
        return vectors[:, real] * np.sqrt(values[real])


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), at least 0 and the same in both orders.

    With C = F F^T, the trace of the root is the sum of the singular values of F_a^T F_b. Unlike a root of the product
    C_a C_b, which is not symmetric, that is exact also for covariances without full rank, as those of fewer examples
    than features are: nothing is added to diagonals, no imaginary part is dropped.

    Raises:
      ValueError: for fewer than 2 examples in a set, or features of different lengths.
    """
    _check_dimensions(a, b)
    shift = a.mean - b.mean
    overlap = np.linalg.svd(a.factor.T @ b.factor, compute_uv=False).sum()
    distance = shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap
    return max(float(distance), 0.0)


def frechet_estimate(
    groups: Sequence[FeatureStatistics], reference: FeatureStatistics, over: str = "images"
) -> Estimate:
    """The distance of all groups' examples together from the reference, and its interval.

    The interval is the jackknife's, by leaving out a group at a time (Student's t). The bootstrap of other figures
    would mislead here: repeated examples lower a covariance's rank, and so raise the distance itself. The reference is
    taken as given, and the distance's bias by the number of examples is in the figure, not in the interval.

    Args:
      groups: statistics of 2 to 10 parts of the examples, of about equal size and alike in kind.
      over: what the groups are of, for the estimate, whose count is the number of groups.

    Raises:
      ValueError: as for `frechet_distance`, also for all but one of the groups.
    """
    if not 2 <= len(groups) <= GROUPS:
        raise ValueError(f"{len(groups)} groups: give 2 to {GROUPS}")
    whole = functools.reduce(FeatureStatistics.merge, groups)
    value = frechet_distance(whole, reference)
    others = [[*groups[:i], *groups[i + 1 :]] for i in range(len(groups))]
    left_out = [frechet_distance(functools.reduce(FeatureStatistics.merge, rest), reference) for rest in others]
    half = _T[len(groups) - 2] * float(np.sqrt((len(groups) - 1) * np.var(left_out)))
    return Estimate(value, max(value - half, 0.0), value + half, len(groups), f"groups of {over}")


def _check_dimensions(a: FeatureStatistics, b: FeatureStatistics) -> None:
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"one set has {len(a.mean)} features an example, the other {len(b.mean)}: both must come from one network"
        )
