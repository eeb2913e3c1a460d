"""Measures how well codes from any model separate known factors: DCI, MIG, SAP and the FactorVAE score.

    python -m soda_jax.tools.dci --codes=z.npy --factors=f.npy
    python -m soda_jax.tools.dci --codes=train.npz --factors=train.npz --test_codes=test.npz --test_factors=test.npz
    python -m soda_jax.tools.dci --codes=z.npy --factors=f.npy --sections=16 --json=dci.json --importance=dci.npy
    python -m soda_jax.tools.dci --codes=z.npy --factors=f.npy --sections=16 --pca_per_section=1 --seeds=3

The last reduces each section to its first principal component before DCI and the FactorVAE score, as DisDiff and
EncDiff do with the units of their latents, and puts these figures beside those of all codes.

Codes are a matrix [N, d], factors a matrix [N, K] of numbers, a row an example. Without test files a random third of
the rows, at most 5,000, is the test set. Of an .npz file the array `codes` or `factors` is read (`FILE.npz:NAME` for
another), or the only one.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import app, flags
from tabulate import tabulate

from soda_jax.cli import parse_flags
from soda_jax.evaluation.evaluators.disentanglement import Disentanglement, pca_figures
from soda_jax.evaluation.record import Figures
from soda_jax.metrics.bootstrap import Estimate
from soda_jax.metrics.disentanglement import PcaScores
from soda_jax.metrics.disentanglement.boosting import METHODS
from soda_jax.metrics.disentanglement.dci import Section
from soda_jax.metrics.disentanglement.factors import matrix
from soda_jax.paths import expanded, output_file
from soda_jax.version import __version__

FORMAT = 1
PREFIX = "disentanglement/"
OUTPUTS = ("json", "importance")
TITLES = {
    "d": "disentanglement (D)",
    "c": "completeness (C)",
    "i": "informativeness (I), test",
    "i_train": "informativeness, train",
    "dci": "mean of D, C and I",
    "mig": "mutual information gap (MIG)",
    "sap": "SAP",
    "factor_vae": "FactorVAE score",
}


def load_matrix(path: str, name: str) -> np.ndarray:
    """The matrix in an .npy file, or the array `name` (or after a colon, or the only one) of an .npz file.

    Raises:
      ValueError: the file is missing, is of another format, or holds no such array.
    """
    file, _, key = path.rpartition(":") if ".npz:" in path else (path, "", "")
    file = expanded(file, f"--{name}")
    try:
        loaded = np.load(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise ValueError(f"--{name}={path}: there is no such file") from error
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"--{name}={path}: cannot be read as .npy or .npz of numbers ({error})") from error
    if isinstance(loaded, np.ndarray):
        return matrix(loaded, f"--{name}={path}:")
    wanted = [key] if key else [name, name.removeprefix("test_"), *(loaded.files if len(loaded.files) == 1 else ())]
    found = [candidate for candidate in wanted if candidate in loaded.files]
    if not found:
        held = ", ".join(loaded.files) or "none"
        raise ValueError(f"--{name}={path}: the file's arrays are {held}; name one as {file}:NAME")
    return matrix(loaded[found[0]], f"--{name}={path}:")


def parse_sections(text: str, width: int) -> list[Section]:
    """Sections of codes [N, width]: "16" is so many equal ones, "0:128,128:512" names them.

    Raises:
      ValueError: for another form, or a number that does not divide the width.
    """
    if not text:
        return []
    try:
        numbers = [tuple(int(end) for end in part.split(":")) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and len(numbers[0]) == 1:
        count = numbers[0][0]
        if count < 1 or width % count:
            raise ValueError(f"--sections={text}: does not divide the {width} codes; name sections as 0:128,128:512")
        size = width // count
        return [(start, start + size) for start in range(0, width, size)]
    if not numbers or any(len(ends) != 2 for ends in numbers):
        raise ValueError(f"--sections={text}: give a number of equal sections, or bounds as 0:128,128:512")
    return numbers


def split(
    codes: np.ndarray, factors: np.ndarray, num_train: int, num_test: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test codes and factors: a random third, at most `num_test` examples, is for testing."""
    if len(codes) != len(factors):
        raise ValueError(f"there are {len(codes)} codes and {len(factors)} factors: give one row of each an example")
    if len(codes) < 3:
        raise ValueError(f"there are {len(codes)} examples: give at least 3, or test files")
    order = np.random.default_rng(seed).permutation(len(codes))
    test = min(num_test, len(codes) // 3)
    held, rest = order[:test], order[test : test + num_train]
    return codes[rest], factors[rest], codes[held], factors[held]


def table(results: Figures, sections: list[Section], names: list[str]) -> str:
    """Formats what `Disentanglement.run` returns: all codes, each factor, each section."""
    rows = [[title, *_cells(results[PREFIX + key])] for key, title in TITLES.items()]
    parts = [tabulate(rows, ["all codes", "value", "95 % interval"], disable_numparse=True)]
    rows = [[name, *_cells(results[f"{PREFIX}i/{name}"])] for name in names if f"{PREFIX}i/{name}" in results]
    parts.append(tabulate(rows, ["informativeness of", "value", "95 % interval"], disable_numparse=True))
    if sections:
        keys = ("d", "c", "i", "dci")
        rows = [
            [index, f"{start}-{stop - 1}", *(_cells(results[f"{PREFIX}section_{index}/{key}"])[0] for key in keys)]
            for index, (start, stop) in enumerate(sections)
        ]
        parts.append(tabulate(rows, ["section", "codes", "D", "C", "I", "mean"], disable_numparse=True))
    return "\n\n".join(parts)


def pca_table(results: Figures, found: Sequence[PcaScores], width: int, method: str) -> str:
    """The figures of all codes, and of each section's principal components with their spread over seeds."""
    keys = ("d", "c", "i", "factor_vae")
    rows = [["all", width, method, *(f"{float(results[PREFIX + key]):.4f}" for key in keys)]]
    for scores in found:
        spread = [f"{mean:.4f} +- {std:.4f}" for mean, std in map(_moments, scores.by_seed().values())]
        rows.append([f"PCA, {scores.k} a section", scores.columns, method, *spread])
    head = ["codes", "columns", "trees", "D", "C", "I", "FactorVAE score"]
    return tabulate(rows, head, disable_numparse=True)


def _moments(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation of the seeds' values, 0 of one."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _pca_report(scores: PcaScores) -> dict:
    """What the JSON file says of one number of components."""
    report = {"k": scores.k, "columns": scores.columns, "pruned": scores.pruned}
    for name, values in scores.by_seed().items():
        mean, std = _moments(values)
        report[name] = {"mean": mean, "std": std, "seeds": values}
    return report | {"importance": scores.importance.tolist()}


def _pca_note(found: Sequence[PcaScores], options: flags.FlagValues) -> str:
    pruned = " and ".join(f"{scores.pruned} of {scores.columns}" for scores in found)
    return (
        f"PCA: mean +- standard deviation over {options.seeds} seeds. Its FactorVAE score leaves out columns that "
        f"never vary, or whose standard deviation is below {options.factor_vae_threshold:g}: {pruned}."
    )


def _cells(value: float | Estimate) -> tuple[str, str]:
    interval = f"{value.low:.4f}-{value.high:.4f} ({value.over})" if isinstance(value, Estimate) else ""
    return f"{float(value):.4f}", interval


def _as_data(value: float | Estimate) -> dict | float:
    return dataclasses.asdict(value) if isinstance(value, Estimate) else value


def _components(items: list[str], sections: list[Section]) -> list[int]:
    """The numbers of principal components that --pca_per_section names, checked before anything is measured."""
    text = ",".join(items)
    if not all(item.strip().isdecimal() and int(item) > 0 for item in items):
        raise ValueError(f"--pca_per_section={text}: give numbers of components, as 1 or 1,3")
    if items and not sections:
        raise ValueError(f"--pca_per_section={text} needs the sections: give --sections too")
    components = [int(item) for item in items]
    for k in components:
        if any(stop - start < k for start, stop in sections):
            raise ValueError(f"--pca_per_section={text}: a section has fewer than {k} codes; leave {k} out")
        if len(sections) * k < 2:
            raise ValueError(f"--pca_per_section={text}: {k} of one section is one column; completeness needs two")
    return components


def _read(options: flags.FlagValues) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Codes and factors of both splits: those to measure, and those that seeds draw from."""
    codes, factors = load_matrix(options.codes, "codes"), load_matrix(options.factors, "factors")
    if bool(options.test_codes) != bool(options.test_factors):
        raise ValueError("give both --test_codes and --test_factors, or neither")
    if options.test_codes:
        test = load_matrix(options.test_codes, "test_codes"), load_matrix(options.test_factors, "test_factors")
        return (codes, factors, *test), (codes, factors, *test)
    chosen = split(codes, factors, options.num_train, options.num_test, options.seed)
    return chosen, split(codes, factors, len(codes), len(codes), options.seed)


def measure(options: flags.FlagValues) -> None:
    """Reads, measures, prints and writes what the flags ask for; ValueError for what they get wrong."""
    # Before the work: a place that cannot be written should not show after it.
    written = {name: output_file(options[name].value, f"--{name}") for name in OUTPUTS if options[name].value}
    data, pools = _read(options)
    width, count = data[0].shape[1], data[1].shape[1]
    sections = parse_sections(options.sections, width)
    components = _components(options.pca_per_section, sections)
    names = options.names or [f"factor{k}" for k in range(count)]
    kinds = options.kinds[0] if len(options.kinds) == 1 else options.kinds
    settings = {key: options[key].value for key in ("method", "num_train", "num_test", "repeats", "seed")}
    evaluator = Disentanglement(names, kinds=kinds, jobs=options.jobs, progress=sys.stderr.isatty(), **settings)
    draws = {"seeds": options.seeds, "threshold": options.factor_vae_threshold}
    found = [evaluator.by_pca(*pools, sections, k, **draws) for k in components]
    results, parts = evaluator.analyse(*data, sections)
    counts = {"train": min(len(data[0]), options.num_train), "test": min(len(data[2]), options.num_test)}
    print(table(results, sections, names))
    if found:
        print(f"\n{pca_table(results, found, width, options.method)}\n{_pca_note(found, options)}")
    print(f"\n{counts['train']} training and {counts['test']} test examples, {width} codes, {options.method}.")
    if "json" in written:
        report = {"format": FORMAT, "soda_jax": __version__, "settings": settings | {"kinds": kinds}, "count": counts}
        report |= {"factors": names, "sections": sections}
        for scores in found:
            results |= pca_figures(scores)
        report["results"] = {name: _as_data(value) for name, value in results.items()}
        if found:
            report["settings"] |= {"seeds": options.seeds, "factor_vae_threshold": options.factor_vae_threshold}
            report["pca"] = [_pca_report(scores) for scores in found]
        pathlib.Path(written["json"]).write_text(json.dumps(report, indent=2) + "\n")
    if "importance" in written:
        with open(written["importance"], "wb") as file:  # np.save would add ".npy" to a name
            np.save(file, parts[0].importance)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: what is {argv[1]!r}? Matrices are given as --codes=FILE --factors=FILE")
    try:
        measure(flags.FLAGS)
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"error: {error}")


def _define_flags() -> None:
    flags.DEFINE_string("codes", None, "Matrix of codes [N, d], .npy or .npz.", required=True)
    flags.DEFINE_string("factors", None, "Matrix of factors [N, K], .npy or .npz.", required=True)
    flags.DEFINE_string("test_codes", "", "Codes to test on; default: a random third of the others.")
    flags.DEFINE_string("test_factors", "", "Their factors.")
    flags.DEFINE_list("names", [], "Names of the factors, separated by commas.")
    flags.DEFINE_list("kinds", ["auto"], "auto, discrete or continuous: one for all, or one a factor.")
    flags.DEFINE_enum("method", "fast", list(METHODS), "Boosted trees on histograms, or scikit-learn's (slow).")
    flags.DEFINE_integer("num_train", 10_000, "Training examples at most.", lower_bound=1)
    flags.DEFINE_integer("num_test", 5_000, "Test examples at most.", lower_bound=1)
    flags.DEFINE_integer("repeats", 0, "Random halves for intervals of all figures; 0 or 2 and more.", lower_bound=0)
    flags.DEFINE_string("sections", "", "Also by section: a number of equal ones, or bounds as 0:128,128:512.")
    flags.DEFINE_list("pca_per_section", [], "Also of so many principal components of each section: 1, or 1,3.")
    flags.DEFINE_integer("seeds", 3, "Of these: draws of examples and votes.", lower_bound=1)
    flags.DEFINE_float("factor_vae_threshold", 0.0, "Of these: least standard deviation of a column.", lower_bound=0)
    flags.DEFINE_integer("jobs", None, "Processes; default: one a core.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the draws.")
    flags.DEFINE_string("json", "", "File to write the figures to, too.")
    flags.DEFINE_string("importance", "", "File to write the importance matrix [d, K] to, .npy.")


if __name__ == "__main__":
    _define_flags()
    app.run(main, flags_parser=parse_flags)
