"""What a trained probe says of features: classes with their probabilities."""

import dataclasses
from typing import Any

import jax
import numpy as np

from soda_jax.models.probe import LinearProbe


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """Of one label.

    Attributes:
      probabilities: float32 [N, C].
      classes: their names, or 0..C-1 where the dataset has none.
    """

    probabilities: np.ndarray
    classes: tuple[str | int, ...]

    @property
    def best(self) -> list[str | int]:
        """The most probable class of each of the N images."""
        return [self.classes[i] for i in self.probabilities.argmax(axis=1)]


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """Linear classifiers of the latent that training taught beside the model (the online probe, SODA E.1).

    Attributes:
      kind: "label", "attributes" or "factors".
      sizes, names: number of classes and name of each label.
      classes: names of the classes of a single label; () where the dataset has none.
      variables: `params` and `batch_stats` of `models.probe.LinearProbe`.
    """

    kind: str
    sizes: tuple[int, ...]
    names: tuple[str, ...]
    classes: tuple[str, ...]
    variables: dict[str, Any]

    def predict(self, features: np.ndarray) -> dict[str, Prediction]:
        """Predictions of features [N, d] by the labels' names.

        Raises:
          ValueError: the probe was taught on features of another width.
        """
        width = self.variables["params"]["head"]["kernel"].shape[0]
        if features.shape[1:] != (width,):
            raise ValueError(f"the probe reads {width} numbers of each image, and these have {features.shape[1:]}")
        logits = LinearProbe(self.sizes).apply(self.variables, features)
        found = {}
        for name, size, one in zip(self.names, self.sizes, logits, strict=True):
            named = self.classes if self.kind == "label" and len(self.classes) == size else tuple(range(size))
            found[name] = Prediction(np.asarray(jax.nn.softmax(one)), named)
        return found
