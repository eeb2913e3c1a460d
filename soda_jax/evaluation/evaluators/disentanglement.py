"""How well a latent separates a dataset's factors of variation (SODA Section 4.3, Appendix E.3)."""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from einops import rearrange
from scipy import stats

from soda_jax.data.transforms import resize
from soda_jax.evaluation.batches import all_gather
from soda_jax.evaluation.interface import FeatureContext, FeatureRequest, FeatureRow
from soda_jax.evaluation.record import Figures
from soda_jax.metrics.bootstrap import LEVEL, Estimate, bootstrap
from soda_jax.metrics.disentanglement import DCI, dci_by_section, factor_vae_score, mig, sap
from soda_jax.metrics.disentanglement.dci import Section, scores
from soda_jax.metrics.disentanglement.factors import Kinds, matrix
from soda_jax.models.modulation import section_sizes

PIXELS_SIDE = 16  # of the images whose pixels are codes: trees on more would take hours
PIXELS_ROW = f"raw pixels, {PIXELS_SIDE} x {PIXELS_SIDE}"


class Evaluator:
    """`disentanglement`: `Disentanglement` of latents and of their sections; the importance matrix goes to a file."""

    def __init__(self, context: FeatureContext):
        settings = context.settings
        self.features = FeatureRequest(
            settings.dci_train,
            settings.dci_test,
            pixels=_few_pixels,
            pixels_row=PIXELS_ROW,
            noun="codes",
            prefix="dci_",
        )
        self._settings, self._num_sections = settings, context.num_sections if settings.dci_sections else 0
        self._importance_path = pathlib.Path(context.workdir) / "dci_importance.npy"

    def run(self, row: FeatureRow) -> Figures:
        settings, train, test = self._settings, row.train, row.test
        disentanglement = Disentanglement(
            train.names,
            method=settings.dci_method,
            num_train=settings.dci_train,
            num_test=settings.dci_test,
            repeats=settings.dci_repeats if row.kind == "trained" else 0,
            progress=jax.process_index() == 0,
        )
        sections = self._sections(train.features.shape[1]) if row.kind != "pixels" else []
        figures, parts = disentanglement.analyse(train.features, train.labels, test.features, test.labels, sections)
        if row.kind == "trained" and jax.process_index() == 0:
            np.save(self._importance_path, parts[0].importance)
            print(f"importance of each code for each factor ({', '.join(train.names)}): {self._importance_path}")
        return figures

    def _sections(self, width: int) -> list[Section]:
        """Dimensions [start, stop) of the latent's sections; none where a section has too few."""
        number = self._num_sections
        if number == 0:
            return []
        if width < 2 * number:  # completeness tells codes apart
            if jax.process_index() == 0:
                print(f"no DCI by section: {width} codes in {number} sections leave one with fewer than two")
            return []
        ends = np.cumsum(section_sizes(width, number)).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))


class Disentanglement:
    """DCI, MIG, SAP and the FactorVAE score of codes, and DCI of sections of them.

    Args:
      names: of the factors; None numbers them.
      method: "fast" or "exact" boosted trees (`metrics.disentanglement.boosting`).
      num_train, num_test: examples to use at most, drawn at random; 10,000 and 5,000 as in disentanglement_lib.
      kinds: "auto", "discrete", "continuous", or one of them for each factor (`metrics.disentanglement.dci`).
      repeats: how many random halves of the training examples all is measured on again, for intervals around the
        figures that need a fit; each costs about half of the first time. 0 is none, otherwise 2 or more.
      jobs: processes; None is one a core.
      progress: show on stderr how many predictors are fitted.
      seed: of the draws.

    Raises:
      ValueError: a number is out of range.
    """

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        method: str = "fast",
        num_train: int = 10_000,
        num_test: int = 5_000,
        kinds: Kinds = "auto",
        repeats: int = 0,
        jobs: int | None = None,
        progress: bool = False,
        seed: int = 0,
    ):
        for name, value in (("num_train", num_train), ("num_test", num_test)):
            if value < 1:
                raise ValueError(f"{name}={value}: give at least 1")
        if repeats < 0 or repeats == 1:
            raise ValueError(f"repeats={repeats}: give 0 for no intervals, or 2 and more: one has no spread")
        self._names, self._num_train, self._num_test = names, num_train, num_test
        self._repeats, self._seed, self._kinds = repeats, seed, kinds
        self._boosting = {"method": method, "jobs": jobs, "seed": seed, "progress": progress}

    def run(
        self,
        codes_train: np.ndarray,
        factors_train: np.ndarray,
        codes_test: np.ndarray,
        factors_test: np.ndarray,
        sections: Sequence[Section] = (),
    ) -> Figures:
        """Measures codes [N, d], [M, d] of examples with factors [N, K], [M, K].

        Args:
          sections: dimensions [start, stop) to measure by themselves, too.

        Returns:
          Under "disentanglement/", all in [0, 1]: `d`, `c`, `i` (mean over factors on the test examples, interval over
          these), `i_train`, `dci` (mean of d, c, i: SODA's Table 4), `i/NAME` of each factor, `mig`, `sap`,
          `factor_vae`; and `section_NUMBER/` `d`, `c`, `i`, `dci` of each section, from 0.

        Raises:
          ValueError: a split is empty, lengths differ, values are not finite, a factor has one value, there are fewer
            than two factors or codes, or names do not fit.
          ImportError: a library of the method is missing.
        """
        return self.analyse(codes_train, factors_train, codes_test, factors_test, sections)[0]

    def analyse(
        self,
        codes_train: np.ndarray,
        factors_train: np.ndarray,
        codes_test: np.ndarray,
        factors_test: np.ndarray,
        sections: Sequence[Section] = (),
    ) -> tuple[Figures, list[DCI]]:
        """As `run`; and the DCI of all codes and of each section, which hold the importance matrices."""
        train = self._draw(codes_train, factors_train, self._num_train, "train")
        test = self._draw(codes_test, factors_test, self._num_test, "test")
        names = self._names or [f"factor{k}" for k in range(train[1].shape[1])]
        if len(names) != train[1].shape[1]:
            raise ValueError(f"names={tuple(names)} are {len(names)}: there are {train[1].shape[1]} factors")
        results, parts = self._measure(train, test, sections)
        rng = np.random.default_rng([self._seed, 1])
        halves = []
        for _ in range(self._repeats):
            rows = rng.permutation(len(train[0]))[: len(train[0]) // 2]
            halves.append(self._measure((train[0][rows], train[1][rows]), test, sections)[0])
        results = {name: _spread(value, [half[name] for half in halves]) for name, value in results.items()}
        for prefix, part in zip(_prefixes(sections), parts, strict=True):
            results[f"{prefix}i"] = _informativeness(part)
        for k, name in enumerate(names):
            results[f"disentanglement/i/{name}"] = _informativeness(parts[0], k)
        return results, parts

    def _draw(self, codes: np.ndarray, factors: np.ndarray, count: int, split: str) -> tuple[np.ndarray, np.ndarray]:
        codes, factors = matrix(codes, f"{split} codes"), matrix(factors, f"{split} factors")
        if len(codes) != len(factors):
            raise ValueError(f"there are {len(codes)} {split} codes and {len(factors)} factors: give a row an example")
        if len(codes) <= count:
            return codes, factors
        rows = np.random.default_rng(self._seed).permutation(len(codes))[:count]
        return codes[rows], factors[rows]

    def _measure(
        self, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], sections: Sequence[Section]
    ) -> tuple[dict[str, float], list[DCI]]:
        whole = (0, train[0].shape[1])
        parts = dci_by_section(*train, *test, [whole, *sections], kinds=self._kinds, **self._boosting)
        results = {}
        for prefix, part in zip(_prefixes(sections), parts, strict=True):
            results |= {
                f"{prefix}d": part.disentanglement,
                f"{prefix}c": part.completeness,
                f"{prefix}i": part.informativeness,
                f"{prefix}dci": part.mean,
            }
        return results | {
            "disentanglement/i_train": float(parts[0].train_scores.mean()),
            "disentanglement/mig": mig(*train, kinds=self._kinds),
            "disentanglement/sap": sap(*train, *test, kinds=self._kinds, jobs=self._boosting["jobs"]),
            "disentanglement/factor_vae": factor_vae_score(*train, *test, kinds=self._kinds, seed=self._seed),
        }, parts


def _few_pixels(batch: dict[str, np.ndarray]) -> np.ndarray:
    """Pixels of the first source view, shrunk to 16 x 16, in [0, 1]."""
    small = np.stack([resize(image, PIXELS_SIDE, PIXELS_SIDE) for image in batch["source"][:, 0]])
    return all_gather(rearrange(small, "b h w c -> b (h w c)").astype(np.float32) / 255.0)


def _prefixes(sections: Sequence[Section]) -> list[str]:
    return ["disentanglement/", *(f"disentanglement/section_{index}/" for index in range(len(sections)))]


def _informativeness(part: DCI, factor: int | None = None) -> Estimate:
    """The mean test score, or one factor's, and its interval over test examples."""
    chosen = slice(None) if factor is None else slice(factor, factor + 1)
    errors, spread = part.test_errors[:, chosen], part.test_spread[:, chosen]

    def mean_score(errors: np.ndarray, spread: np.ndarray) -> np.ndarray:
        return scores(errors.swapaxes(0, 1), spread.swapaxes(0, 1)).mean(axis=-1)

    return bootstrap(mean_score, errors, spread)


def _spread(value: float, halves: list[float]) -> float | Estimate:
    """`value` with the interval that its figures on random halves tell.

    A figure on a half drawn without replacement scatters around that on the whole just as the latter does around the
    population's: (1 / (N / 2) - 1 / N) = 1 / N. Their own mean, which the smaller number shifts, does not enter.
    """
    if not halves:
        return value
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(halves) - 1) * np.std(halves, ddof=1))
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach), len(halves), "random halves")
