"""A linear probe of labels on codes, for its rows: where in the latent a label's evidence points (Appendix E.3)."""

import dataclasses

import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from soda_jax.latents.checks import checked_codes

_PENALTY = 1e-3  # of each weight's square over the mean loss: bounds the rows of classes that codes separate perfectly


@dataclasses.dataclass(frozen=True, eq=False)
class LabelProbe:
    """A softmax probe of one label on standardised codes.

    Attributes:
      rows: float64 [C, d], weights of each class; 0 for a class that no training code has.
      bias: float64 [C]; minus infinity for a class that no training code has.
      mean, std: float64 [d], of the training codes; the probe acts on (z - mean) / std.
    """

    rows: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def logits(self, codes: np.ndarray) -> np.ndarray:
        """[N, C] of codes [N, d]."""
        codes = checked_codes(codes, width=len(self.mean))
        return (codes - self.mean) / self.std @ self.rows.T + self.bias

    def predict(self, codes: np.ndarray) -> np.ndarray:
        """The most likely class of each code, int [N]."""
        return self.logits(codes).argmax(axis=1)

    def probabilities(self, codes: np.ndarray) -> np.ndarray:
        """[N, C], rows summing to 1."""
        return softmax(self.logits(codes), axis=1)


def fit_probe(codes: np.ndarray, labels: np.ndarray, size: int) -> LabelProbe:
    """Fits a probe of a label with `size` classes, labels int [N] in 0..size-1, on codes [N, d].

    The evaluation's probe is trained by Adam with dropout, as in the paper; here it is the same model's optimum with a
    small penalty, found by scikit-learn, which a direction can be computed from again.

    Raises:
      ValueError: labels that do not fit the codes, or of one class.
    """
    codes = checked_codes(codes, least=2)
    labels = np.asarray(labels)
    if labels.shape != (len(codes),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}; give {len(codes)} integers, one a code")
    if labels.min() < 0 or labels.max() >= size:
        raise ValueError(f"labels lie in {labels.min()}..{labels.max()}; with {size} classes give 0..{size - 1}")
    present = np.unique(labels)
    if len(present) < 2:
        raise ValueError(
            f"all {len(codes)} codes have label {present[0]}: a direction needs two classes; encode others"
        )
    mean, std = codes.mean(axis=0), codes.std(axis=0)
    std = np.where(std > 0, std, 1.0)
    # scikit-learn weighs the summed loss by C: the same penalty on the mean loss whatever the number of codes.
    model = LogisticRegression(C=1 / (_PENALTY * len(codes)), max_iter=300, tol=1e-4)
    model.fit(((codes - mean) / std).astype(np.float32), labels)
    rows, bias = np.zeros((size, codes.shape[1])), np.full(size, -np.inf)
    if len(present) == 2:  # one row for the second class: the softmax's two differ by it
        found, offset = np.stack([-model.coef_[0], model.coef_[0]]) / 2, np.array([-1, 1]) * model.intercept_[0] / 2
    else:
        found, offset = model.coef_, model.intercept_
    rows[present], bias[present] = found, offset
    return LabelProbe(rows, bias, mean, std)
