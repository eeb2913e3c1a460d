"""Parts of a split, drawn at random once and for all: `train@0-90%` and `train@90-100%` share no example."""

import re

import numpy as np

from soda_jax.data.datasets.base import Dataset, Example, Labels, credit_of, get_many

_PART = re.compile(r"(?P<split>.+)@(?P<first>\d+)-(?P<last>\d+)%")
_SEED = 2


def parse_split(name: str) -> tuple[str, tuple[int, int]]:
    """("train", (90, 100)) of "train@90-100%"; (0, 100) where there is no part.

    Raises:
      ValueError: the part is none of 0 to 100 percent.
    """
    found = _PART.fullmatch(name)
    if found is None and "@" not in name:
        return name, (0, 100)
    first, last = (int(found["first"]), int(found["last"])) if found else (0, 0)
    if not 0 <= first < last <= 100:
        raise ValueError(f"split={name!r}: a part of a split is written as train@0-90% or train@90-100%")
    return found["split"], (first, last)


class Subset:
    """Some examples of a dataset, as a dataset.

    Args:
      places: int [N], where they stand in `dataset`.
    """

    def __init__(self, dataset: Dataset, places: np.ndarray):
        self._dataset, self._places = dataset, places
        self.labels: dict[str, Labels] = dict(dataset.labels)
        if hasattr(dataset, "bad_files"):
            self.bad_files = dataset.bad_files

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:
        return self._dataset[int(self._places[index])]

    def get_many(self, indices: np.ndarray) -> list[Example]:
        return get_many(self._dataset, self._places[np.asarray(indices)])

    @property
    def fingerprint(self) -> str | None:
        """The whole dataset's, None where it has none."""
        return getattr(self._dataset, "fingerprint", None)

    def credit(self, index: int) -> str:
        """The example's, "" where the dataset has none."""
        return credit_of(self._dataset, self._places[index])

    @property
    def class_ids(self) -> np.ndarray | None:
        """The class of every example, integers [len]; None where the dataset does not list them."""
        found = getattr(self._dataset, "class_ids", None)
        return None if found is None else np.asarray(found)[self._places]


class Part(Subset):
    """The examples of a dataset from `first` to `last` percent of a fixed permutation, in its order.

    For a validation split of a set that has none: many are stored class by class, where a slice, as TFDS's
    "train[90%:]", holds a few classes and nothing else. Parts that share no percent share no example, and together they
    are the whole; the same on every machine.

    Raises:
      ValueError: there is no example in it.
    """

    def __init__(self, dataset: Dataset, first: int, last: int):
        size = len(dataset)
        order = np.random.Generator(np.random.Philox(_SEED)).permutation(size)
        super().__init__(dataset, order[size * first // 100 : size * last // 100])
        if len(self) == 0:
            raise ValueError(f"split: {first}-{last}% of {size} examples are none; take a larger part")
