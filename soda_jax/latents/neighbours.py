"""The nearest codes: which real images lie beside a latent."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from soda_jax.latents.checks import checked_codes

METRICS = ("cosine", "euclidean")


def nearest(
    queries: np.ndarray, codes: np.ndarray, k: int = 1, *, metric: str = "cosine"
) -> tuple[np.ndarray, np.ndarray]:
    """The k codes of `codes` [M, d] that are nearest to each of `queries` [N, d].

    Returns:
      (rows of `codes`, int [N, k], nearest first; distances [N, k]: 1 - cosine, or Euclidean).

    Raises:
      ValueError: for codes of different widths, a k outside 1..M, or an unknown metric.
    """
    codes = checked_codes(codes)
    queries = checked_codes(queries, "queries", width=codes.shape[1])
    if not 1 <= k <= len(codes):
        raise ValueError(f"k={k}: there are {len(codes)} codes; give 1..{len(codes)}")
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r}: choose one of {', '.join(METRICS)}")
    distances, rows = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(codes).kneighbors(queries)
    return rows, distances
