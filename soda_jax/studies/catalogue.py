"""The studies of the package by name, and those of users by file."""

import difflib
import os
import pathlib
import runpy
import traceback
from typing import Any

from soda_jax.studies.definition import Study, check
from soda_jax.studies.definitions import modulation, representation, sampling, views

MODULES = (modulation, representation, views, sampling)
STUDIES: dict[str, Study] = {study.name: study for module in MODULES for study in module.STUDIES}


def find(value: str) -> Study:
    """The study that --study=`value` means: one of ours by name, or a file with a function `get_study`.

    Raises:
      ValueError: there is none, its file fails, or what it defines cannot be run; the message says what to do.
    """
    if value in STUDIES:
        return STUDIES[value]
    path = pathlib.Path(os.path.expanduser(value))
    if not value or not path.is_file():
        close = difflib.get_close_matches(value, STUDIES)
        guess = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise ValueError(f"--study={value}: give a file, or one of {', '.join(STUDIES)}{guess}")
    study = _from_file(path)
    check(study)
    return study


def _from_file(path: pathlib.Path) -> Study:
    try:
        get_study: Any = runpy.run_path(str(path)).get("get_study")
        if not callable(get_study):
            raise ValueError("the file has no function get_study, which must return the Study")
        study = get_study()
        if not isinstance(study, Study):
            raise ValueError(f"get_study must return a soda_jax.studies.definition.Study, not {type(study).__name__}")
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f"--study={path}" + (f", line {lines[-1]}" if lines else "")
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{place}: {kind}{' '.join(str(error).split())}") from error
    return study


def table_rows() -> list[tuple[str, str, str, str, str]]:
    """(study, the paper's tables, rows, columns, number of claims) of every study, for the docs."""
    found = []
    for study in STUDIES.values():
        columns = dict.fromkeys(column for size in study.sizes.values() for column in size.columns)
        rows = "; ".join(row.name for row in study.rows)
        found.append((f"`{study.name}`", study.where, rows, ", ".join(columns), str(len(study.claims))))
    return found


def claim_rows() -> list[tuple[str, str, str, str]]:
    """(study, claim in words, what is tested, where the paper says so) of every claim, for the docs."""
    return [
        (f"`{study.name}`", claim.text, tested(claim), claim.where)
        for study in STUDIES.values()
        for claim in study.claims
    ]


def size_rows() -> list[tuple[str, str, str, str, str]]:
    """(study, size, config, seeds, what it needs) of every size, for the docs."""
    return [
        (f"`{study.name}`", f"`{name}`", f"`{size.config}`", str(size.seeds), size.needs or "nothing")
        for study in STUDIES.values()
        for name, size in study.sizes.items()
    ]


def tested(claim: Any) -> str:
    """What a claim says of the table: "psnr: SODA > w/o bottleneck"."""
    first, second = claim.columns
    if first == second:
        return f"{first}: {claim.row} {claim.relation} {claim.other}"
    return f"{claim.row}, {first} {claim.relation} {claim.other}, {second}"
