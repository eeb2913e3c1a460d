"""How well a latent separates a dataset's factors of variation (SODA Section 4.3, Appendix E.3)."""

import dataclasses
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
from soda_jax.metrics.disentanglement import DCI, PcaScores, dci_by_section, factor_vae_score, mig, pca_scores, sap
from soda_jax.metrics.disentanglement.dci import Section, scores
from soda_jax.metrics.disentanglement.factors import Kinds, codes_matrix, draw_varying, factor_kinds, matrix
from soda_jax.models.modulation import section_sizes

Split = tuple[np.ndarray, np.ndarray]  # codes [N, d] and factors [N, K]

PIXELS_SIDE = 16  # of the images whose pixels are codes: trees on more would take hours
PIXELS_ROW = f"raw pixels, {PIXELS_SIDE} x {PIXELS_SIDE}"


class Evaluator:
    """`disentanglement`: `Disentanglement` of latents and of their sections; importance matrices go to files."""

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
        self._settings, self._num_sections = settings, context.num_sections
        self._workdir = pathlib.Path(context.workdir)

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
        data = train.features, train.labels, test.features, test.labels
        sections = self._sections(train.features.shape[1]) if row.kind != "pixels" else []
        # Before hours of trees on the whole latent: what these few columns refuse should show at once.
        by_pca = self._by_pca(row, disentanglement, data, sections)
        figures, parts = disentanglement.analyse(*data, self._wide_enough(sections))
        if row.kind == "trained":
            self._keep(parts[0].importance, "dci_importance.npy", "each code", train.names)
        return figures | by_pca

    def _by_pca(
        self,
        row: FeatureRow,
        disentanglement: "Disentanglement",
        data: tuple[np.ndarray, ...],
        sections: Sequence[Section],
    ) -> Figures:
        """The figures of each section's principal components, for every number of them that the config names."""
        settings, figures = self._settings, {}
        trained = row.kind == "trained"
        if trained and settings.dci_pca and not sections:
            _say(f"no DCI of sections' principal components ({tuple(settings.dci_pca)}): the codes have no sections")
        for k in settings.dci_pca if sections else ():
            what = f"each section's first {k} principal components"
            lacking = _lacking_for_pca(sections, k)
            if lacking:
                _say(f"no DCI of {what}: {lacking}")
                continue
            seeds = settings.dci_seeds if trained else 1
            found = disentanglement.by_pca(*data, sections, k, seeds=seeds, threshold=settings.factor_vae_threshold)
            figures |= pca_figures(found)
            if trained:
                self._keep(found.importance, f"dci_pca{k}_importance.npy", what, row.train.names)
                _say(
                    f"DCI of {what}: {found.columns} codes, {settings.dci_method} trees, {seeds} draws; "
                    f"the FactorVAE score leaves out {found.pruned} codes"
                )
        return figures

    def _keep(self, importance: np.ndarray, file: str, what: str, names: Sequence[str]) -> None:
        if jax.process_index() == 0:
            np.save(self._workdir / file, importance)
            print(f"importance of {what} for each factor ({', '.join(names)}): {self._workdir / file}")

    def _sections(self, width: int) -> list[Section]:
        """Dimensions [start, stop) of the latent's sections; none of codes without sections."""
        if self._num_sections == 0:
            return []
        ends = np.cumsum(section_sizes(width, self._num_sections)).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def _wide_enough(self, sections: Sequence[Section]) -> Sequence[Section]:
        """The sections to measure by themselves: none where one has too few codes."""
        if not self._settings.dci_sections:
            return []
        if any(stop - start < 2 for start, stop in sections):  # completeness tells codes apart
            width, number = sections[-1][1], len(sections)
            _say(f"no DCI by section: {width} codes in {number} sections leave one with fewer than two")
            return []
        return sections


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

        A factor of one value in all training examples is left out, which a printed line says.

        Raises:
          ValueError: a split is empty, lengths differ, values are not finite or beyond float32, there are fewer than
            two codes or factors of several values, or names do not fit.
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
        """As `run`; and the DCI of all codes and of each section, which hold the importance matrices, [d, K].

        Of a factor that is left out the importance is 0.
        """
        train = self._draw(codes_train, factors_train, self._num_train, "train")
        test = self._draw(codes_test, factors_test, self._num_test, "test")
        count = train[1].shape[1]
        names = self._names or [f"factor{k}" for k in range(count)]
        if len(names) != count:
            raise ValueError(f"names={tuple(names)} are {len(names)}: there are {count} factors")
        kept = self._varying(train[1])
        if len(kept) < count:
            left = ", ".join(name for k, name in enumerate(names) if k not in kept)
            print(f"left out, of one value in all {len(train[1])} training examples: {left}")
        kinds = self._kinds_of(train[1], kept)
        train, test = (train[0], train[1][:, kept]), (test[0], test[1][:, kept])
        results, parts = self._measure(train, test, sections, kinds)
        halves = self._halves(train, test, sections, kinds)
        results = {name: _spread(value, [half[name] for half in halves]) for name, value in results.items()}
        for prefix, part in zip(_prefixes(sections), parts, strict=True):
            results[f"{prefix}i"] = _informativeness(part)
        for place, k in enumerate(kept):
            results[f"disentanglement/i/{names[k]}"] = _informativeness(parts[0], place)
        return results, [dataclasses.replace(part, importance=_widened(part.importance, kept, count)) for part in parts]

    def by_pca(
        self,
        codes_train: np.ndarray,
        factors_train: np.ndarray,
        codes_test: np.ndarray,
        factors_test: np.ndarray,
        sections: Sequence[Section],
        k: int,
        *,
        seeds: int = 3,
        threshold: float = 0.0,
    ) -> PcaScores:
        """`pca_scores` of all of these codes, `num_train` and `num_test` of which each seed draws for its trees.

        Of a factor that is left out the importance is 0.

        Args:
          codes_train, factors_train, codes_test, factors_test: as for `run`.
          sections, k, seeds, threshold: as for `pca_scores`.

        Raises:
          ValueError: as for `run` and `pca_scores`.
        """
        train = self._draw(codes_train, factors_train, len(codes_train), "train")
        test = self._draw(codes_test, factors_test, len(codes_test), "test")
        kept, count = self._varying(train[1]), train[1].shape[1]
        found = pca_scores(
            *(train[0], train[1][:, kept], test[0], test[1][:, kept]),
            *(sections, k),
            seeds=range(self._seed, self._seed + seeds),
            threshold=threshold,
            num_train=self._num_train,
            num_test=self._num_test,
            kinds=self._kinds_of(train[1], kept),
            **{name: self._boosting[name] for name in ("method", "jobs", "progress")},
        )
        wide = [dataclasses.replace(part, importance=_widened(part.importance, kept, count)) for part in found.parts]
        return dataclasses.replace(found, parts=wide)

    def _varying(self, factors: np.ndarray) -> list[int]:
        """The columns of training factors [N, K] with two values or more."""
        kept = np.flatnonzero((factors != factors[0]).any(axis=0)).tolist()
        if len(kept) < 2 or not (isinstance(self._kinds, str) or len(self._kinds) == factors.shape[1]):
            return list(range(factors.shape[1]))  # the metrics say what is wrong
        return kept

    def _kinds_of(self, factors: np.ndarray, kept: Sequence[int]) -> tuple[str, ...]:
        """Of the kept columns, by all examples: fewer may show few enough values of a factor for a discrete one."""
        return factor_kinds(factors[:, kept], self._kinds if isinstance(self._kinds, str) else _at(self._kinds, kept))

    def _halves(
        self, train: Split, test: Split, sections: Sequence[Section], kinds: Sequence[str]
    ) -> list[dict[str, float]]:
        """The figures on random halves of the training examples; one that fails is left out, which a line says."""
        rng, found = np.random.default_rng([self._seed, 1]), []
        for number in range(self._repeats):
            rows = draw_varying(train[1], len(train[0]) // 2, rng)
            try:
                found.append(self._measure((train[0][rows], train[1][rows]), test, sections, kinds)[0])
            except Exception as error:  # nothing is worth the figures that are there
                print(f"random half {number + 1} of {self._repeats} could not be measured, and is left out: {error}")
        if len(found) == 1:
            print("no intervals from random halves: one alone has no spread")
        return found if len(found) > 1 else []

    def _draw(self, codes: np.ndarray, factors: np.ndarray, count: int, split: str) -> Split:
        codes, factors = codes_matrix(codes, f"{split} codes"), matrix(factors, f"{split} factors")
        if len(codes) != len(factors):
            raise ValueError(f"there are {len(codes)} {split} codes and {len(factors)} factors: give a row an example")
        if len(codes) <= count:
            return codes, factors
        rows = draw_varying(factors, count, np.random.default_rng(self._seed))
        return codes[rows], factors[rows]

    def _measure(
        self, train: Split, test: Split, sections: Sequence[Section], kinds: Sequence[str]
    ) -> tuple[dict[str, float], list[DCI]]:
        # The trees last: what the others refuse should not show after hours.
        results = {
            "disentanglement/mig": mig(*train, kinds=kinds),
            "disentanglement/factor_vae": factor_vae_score(*train, *test, kinds=kinds, seed=self._seed),
            "disentanglement/sap": sap(*train, *test, kinds=kinds, jobs=self._boosting["jobs"]),
        }
        whole = (0, train[0].shape[1])
        parts = dci_by_section(*train, *test, [whole, *sections], kinds=kinds, **self._boosting)
        for prefix, part in zip(_prefixes(sections), parts, strict=True):
            results |= {
                f"{prefix}d": part.disentanglement,
                f"{prefix}c": part.completeness,
                f"{prefix}i": part.informativeness,
                f"{prefix}dci": part.mean,
            }
        return results | {"disentanglement/i_train": float(parts[0].train_scores.mean())}, parts


def _at(items: Sequence[str], places: Sequence[int]) -> list[str]:
    return [items[place] for place in places]


def _widened(importance: np.ndarray, kept: Sequence[int], count: int) -> np.ndarray:
    """Importances [d, len(kept)] as [d, count], zero elsewhere."""
    wide = np.zeros((len(importance), count))
    wide[:, kept] = importance
    return wide


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
    return _within(value, halves, "random halves")


def _within(value: float, draws: list[float], over: str) -> float | Estimate:
    """`value` with Student's interval by the standard deviation of `draws`, in [0, 1]; alone without two of them."""
    if len(draws) < 2:
        return value
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(draws) - 1) * np.std(draws, ddof=1))
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach), len(draws), over)


def pca_figures(found: PcaScores) -> Figures:
    """`by_seed` under "disentanglement/pcaK/": the mean over draws, with the interval that their spread tells."""
    return {
        f"disentanglement/pca{found.k}/{name}": _within(float(np.mean(values)), values, "random draws")
        for name, values in found.by_seed().items()
    }


def _lacking_for_pca(sections: Sequence[Section], k: int) -> str:
    """Why k principal components a section cannot be measured; "" if they can."""
    narrowest = min(stop - start for start, stop in sections)
    if narrowest < k:
        return f"a section has {narrowest} codes"
    return "one column alone shows no completeness" if len(sections) * k < 2 else ""


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line)
