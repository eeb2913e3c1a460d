"""Which block of a denoiser, at which noise level, gives features: chosen on a held-out part of the training split."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from tabulate import tabulate

from soda_jax.evaluation.evaluators.knn import KNN
from soda_jax.evaluation.feature_sets import FeatureSet, collect
from soda_jax.evaluation.record import Figures
from soda_jax.inference.denoiser import DenoiserFeatures
from soda_jax.inference.engine import Variables
from soda_jax.metrics.bootstrap import Estimate
from soda_jax.objectives.probe import ProbeTask

HELD_OUT_SHARE = 0.2
NEIGHBOURS = 20

Batches = Iterable[dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Choice:
    """The best of a grid of blocks and noise levels.

    Attributes:
      block, level: of the features, the level as a share of the timesteps.
      grid: accuracy on held-out training examples, mean over labels, by (block, level).
    """

    block: str
    level: float
    grid: dict[tuple[str, float], float]

    def figures(self) -> Figures:
        """{"denoiser/BLOCK@LEVEL": accuracy} of the whole grid, and the chosen level."""
        accuracies: Figures = {f"denoiser/{block}@{level:g}": found for (block, level), found in self.grid.items()}
        return accuracies | {"denoiser/level": self.level}

    def table(self, title: str) -> str:
        """The grid, a block a row; the chosen one is marked."""
        blocks, levels = (list(dict.fromkeys(part)) for part in zip(*self.grid, strict=True))

        def cell(block: str, level: float) -> str:
            mark = " *" if (block, level) == (self.block, self.level) else ""
            return f"{self.grid[block, level]:.4f}{mark}"

        rows = [[block, *(cell(block, level) for level in levels)] for block in blocks]
        headers = [f"{title}: k-NN on held-out training examples", *(f"t = {level:g} T" for level in levels)]
        return tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * len(levels)))


def choose(
    features: DenoiserFeatures,
    variables: Variables,
    batches: Callable[[], Batches],
    task: ProbeTask,
    *,
    blocks: Sequence[str],
    levels: Sequence[float],
    knn: KNN | None = None,
    seed: int = 0,
) -> Choice:
    """Tries every block at every level: a random fifth of the examples is classified by its neighbours in the others.

    Args:
      batches: gives the training examples, anew at each call: there is a pass for each level.
      task: what is predicted; accuracies are means over its labels.
      blocks: as `DenoiserFeatures.chosen` takes them.
      levels: shares of the timesteps.
      knn: with one number of neighbours, at most as many as there are examples left.
      seed: of the held-out part.

    Raises:
      ValueError: unknown blocks, or fewer than two examples.
    """
    names = features.chosen(blocks)
    grid: dict[tuple[str, float], float] = {}
    for level in levels:
        t, widths = features.timestep(level), []

        def extract(batch: dict[str, np.ndarray], t: int = t, widths: list[int] = widths) -> np.ndarray:
            found = features(variables, batch, t)
            widths[:] = [found[name].shape[1] for name in names]
            return np.concatenate([found[name] for name in names], axis=1)

        whole = collect(batches(), extract, task)
        ends = np.cumsum(widths)
        for name, start, end in zip(names, (0, *ends[:-1]), ends, strict=True):
            part = dataclasses.replace(whole, features=np.asarray(whole.features[:, start:end]))
            grid[name, level] = _accuracy(part, knn, seed)
    best = max(grid, key=lambda place: grid[place])
    return Choice(*best, dict(sorted(grid.items(), key=lambda item: (names.index(item[0][0]), item[0][1]))))


def _accuracy(found: FeatureSet, knn: KNN | None, seed: int) -> float:
    count = len(found.features)
    held = max(1, int(count * HELD_OUT_SHARE))
    if count < 2:
        raise ValueError(
            f"{count} training examples: a block is chosen on at least 2 (config.eval.denoiser_examples, "
            "config.eval.train_examples)"
        )
    order = np.random.default_rng(seed).permutation(count)
    knn = KNN((min(NEIGHBOURS, count - held),), progress=False) if knn is None else knn
    scores = knn.run(found.subset(np.sort(order[held:])), found.subset(np.sort(order[:held])))
    # Of several labels their mean; of one, that one.
    by_label = {name.rpartition("/")[2]: score for name, score in scores.items()}
    score = by_label["mean" if "mean" in by_label else found.names[0]]
    return float(score.value if isinstance(score, Estimate) else score)
