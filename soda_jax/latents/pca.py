"""Principal components of codes, of the whole latent or of a range of sections (SODA 4.3, Appendix E.3)."""

import dataclasses

import numpy as np

from soda_jax.latents.checks import checked_codes, checked_number
from soda_jax.latents.sections import dims_of


@dataclasses.dataclass(frozen=True, eq=False)
class PCA:
    """Principal components of codes.

    Attributes:
      mean: float64 [d], the mean code.
      components: float64 [k, d], orthonormal rows by falling variance, 0 outside the range of sections.
      std: float64 [k], the codes' standard deviation along each.
      share: float64 [k], of the variance of the range's dimensions that each has.
    """

    mean: np.ndarray
    components: np.ndarray
    std: np.ndarray
    share: np.ndarray

    def coordinates(self, codes: np.ndarray) -> np.ndarray:
        """Where codes [N, d] lie on each component, in standard deviations from the mean: [N, k]."""
        codes = checked_codes(codes, width=len(self.mean))
        return (codes - self.mean) @ self.components.T / np.where(self.std > 0, self.std, 1.0)

    def sample(self, count: int, *, seed: int = 0, truncation: float = 1.0) -> np.ndarray:
        """Codes [count, d] drawn from the Gaussian with this mean and these variances: images without a source.

        Args:
          truncation: factor on the distance from the mean code, 0..1; smaller is more typical and less varied.

        Raises:
          ValueError: for a count below 1 or a truncation outside 0..1.
        """
        truncation = checked_number(truncation, "truncation")
        if count < 1:
            raise ValueError(f"count={count}: give at least 1")
        if not 0 <= truncation <= 1:
            raise ValueError(f"truncation={truncation}: give 0 (the mean code) to 1 (as spread as the real codes)")
        noise = np.random.default_rng(seed).standard_normal((count, len(self.std)))
        return self.mean + truncation * (noise * self.std) @ self.components


def fit_pca(
    codes: np.ndarray, num_components: int | None = None, *, sections: str | None = None, num_sections: int = 0
) -> PCA:
    """Principal components of codes [N, d] (the paper: of 1,000 to 10,000 images).

    Args:
      num_components: k; all that have variance by default (at most d and N - 1).
      sections: a range "a-b" to look at alone; the other dimensions do not vary along the components.
      num_sections: of the latent, where `sections` is given.

    Raises:
      ValueError: fewer than two codes, codes that are all the same, more components than there are, or a bad range.
    """
    codes = checked_codes(codes, least=2)
    dims = dims_of(sections, codes.shape[1], num_sections)
    mean = codes.mean(axis=0)
    centred = (codes - mean)[:, dims]
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    variance = singular**2 / (len(codes) - 1)
    total = variance.sum()
    if total <= 0:
        raise ValueError("all codes are the same there: they have no principal components; encode different images")
    found = int((variance > variance[0] * 1e-12).sum())
    wanted = found if num_components is None else num_components
    if not 1 <= wanted <= found:
        raise ValueError(f"num_components={wanted}: {len(codes)} codes of these sections have 1..{found}")
    rows = rows[:wanted]
    # An SVD leaves the signs open; the largest entry of each row is made positive, so that two fits agree.
    signs = np.sign(rows[np.arange(wanted), np.abs(rows).argmax(axis=1)])
    components = np.zeros((wanted, codes.shape[1]))
    components[:, dims] = rows * signs[:, None]
    return PCA(mean, components, np.sqrt(variance[:wanted]), variance[:wanted] / total)
