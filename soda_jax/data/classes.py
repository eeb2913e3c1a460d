"""Which examples of a dataset share a class."""

import numpy as np

from soda_jax.data.datasets.base import Dataset, class_ids_of


class ClassIndex:
    """The members of each class of a dataset, to find another image of the same class.

    Raises:
        ValueError: the dataset has no classes.
    """

    def __init__(self, dataset: Dataset):
        _, self._classes = np.unique(class_ids_of(dataset), return_inverse=True)
        counts = np.bincount(self._classes)
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts
        self._members = np.argsort(self._classes, kind="stable")
        self._places = np.empty(len(self._members), np.int64)
        self._places[self._members] = np.arange(len(self._members))

    def random_partner(self, index: int, rng: np.random.Generator) -> int:
        """Another member of the class of example `index`, each as likely; itself if it is alone."""
        start, end, place = self._range(index)
        if end - start == 1:
            return index
        drawn = start + int(rng.integers(end - start - 1))
        return int(self._members[drawn + (drawn >= place)])

    def next_partner(self, index: int) -> int:
        """The next member of the class, the first behind the last; itself if it is alone."""
        start, end, place = self._range(index)
        return int(self._members[start if place + 1 == end else place + 1])

    def _range(self, index: int) -> tuple[int, int, int]:
        group = self._classes[index]
        return int(self._starts[group]), int(self._ends[group]), int(self._places[index])
