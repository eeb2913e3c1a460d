"""k-nearest neighbours on frozen features: cosine similarity, DINO's temperature-weighted vote."""

import numpy as np

from soda_jax.evaluators.features import FeatureSet
from soda_jax.metrics.classification import knn_predict


class KNN:
    """Accuracy for each k and target; the gallery is the whole training split, not augmented.

    Args:
      ks: numbers of neighbours; those above the gallery's size are skipped.
      temperature: of the vote's weights exp(similarity / temperature).
    """

    def __init__(self, ks: tuple[int, ...] = (20,), temperature: float = 0.07):
        self._ks, self._temperature = ks, temperature

    def run(self, train: FeatureSet, test: FeatureSet) -> dict[str, float]:
        """{"knn20/NAME": accuracy}, with the mean over targets as "knn20/mean" where there are several."""
        results: dict[str, float] = {}
        for k in (k for k in self._ks if k <= len(train.features)):
            accuracies = []
            for head, (name, size) in enumerate(zip(train.names, train.sizes, strict=True)):
                predicted = knn_predict(
                    train.features,
                    train.targets[:, head],
                    test.features,
                    k=k,
                    temperature=self._temperature,
                    num_classes=size,
                )
                accuracies.append(float(np.mean(np.asarray(predicted) == test.targets[:, head])))
                results[f"knn{k}/{name}"] = accuracies[-1]
            if len(accuracies) > 1:
                results[f"knn{k}/mean"] = float(np.mean(accuracies))
        return results
