"""k-nearest neighbours on frozen features: cosine similarity, DINO's temperature-weighted vote."""

from collections.abc import Sequence

import jax
import numpy as np

from soda_jax.evaluation.batches import all_gather_rows, rows_of_this_process
from soda_jax.evaluation.feature_sets import FeatureSet, check_pair
from soda_jax.evaluation.interface import FeatureContext, FeatureRow
from soda_jax.evaluation.record import Figures
from soda_jax.metrics.classification import class_ranks, classification_estimates
from soda_jax.metrics.knn import knn_votes, nearest_neighbours


class Evaluator:
    """`knn`: `KNN` with the numbers of neighbours `config.eval.knn_k`."""

    def __init__(self, context: FeatureContext):
        self.features = context.shared_request()
        self._knn = KNN(tuple(context.settings.knn_k), devices=list(context.inference.mesh.local_devices))

    def run(self, row: FeatureRow) -> Figures:
        return self._knn.run(row.train, row.test)


class KNN:
    """Scores for each k and label; the gallery is the whole training split, not augmented.

    Of several processes, which must all call `run` with the same sets, each searches the neighbours of its part of the
    test examples; all get the scores of the whole.

    Args:
      ks: numbers of neighbours; those above the gallery's size are left out, which a printed line says.
      temperature: of the vote's weights exp(similarity / temperature).
      devices: which share the search; all of this process by default.
      progress: show on stderr how far a search has come.
    """

    def __init__(
        self,
        ks: tuple[int, ...] = (20, 200),
        temperature: float = 0.07,
        devices: Sequence[jax.Device] | None = None,
        progress: bool = True,
    ):
        if not ks or min(ks) < 1:
            raise ValueError(
                f"ks={tuple(ks)}: give at least one number of neighbours, each 1 or more (config.eval.knn_k)"
            )
        self._ks, self._temperature, self._devices, self._progress = tuple(ks), temperature, devices, progress

    def run(self, train: FeatureSet, test: FeatureSet) -> Figures:
        """{"knn20/NAME": accuracy} and the other scores of `classification_estimates`, for every k.

        Raises:
          ValueError: the sets do not belong together, or every training example is of one class.
        """
        check_pair(train, test)
        for k in self._ks:
            if k > len(train.features):
                print(f"no scores of {k} neighbours: the gallery holds {len(train.features)} examples")
        ks = [k for k in self._ks if k <= len(train.features)]
        if not ks:
            return {}
        similarities, indices = self._neighbours(train, test, max(ks))
        results: Figures = {}
        for k in ks:
            ranks = []
            for head, size in enumerate(train.sizes):
                labels = train.labels[indices[:, :k], head]
                votes = knn_votes(similarities[:, :k], labels, num_classes=size, temperature=self._temperature)
                ranks.append(np.asarray(class_ranks(votes.astype(np.float32), test.labels[:, head])))
            scores = classification_estimates(np.stack(ranks, axis=1), test.labels, train.sizes, train.names)
            results |= {f"knn{k}/{name}": score for name, score in scores.items()}
        return results

    def _neighbours(self, train: FeatureSet, test: FeatureSet, k: int) -> tuple[np.ndarray, np.ndarray]:
        """`nearest_neighbours`, on every process, from each one's part of the test examples."""
        count = len(test.features)
        own = test.features[rows_of_this_process()]
        if not len(own):  # fewer examples than processes: one whose answer is dropped below
            own = test.features[:1]
        missing = -(-count // jax.process_count()) - len(own)  # to as many answers as any other process has
        similarities, indices = (
            all_gather_rows(np.pad(part, ((0, missing), (0, 0))))[:count]
            for part in nearest_neighbours(
                train.features, own, k, devices=self._devices, progress=self._progress and jax.process_index() == 0
            )
        )
        return similarities, indices
