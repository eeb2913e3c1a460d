"""What a study consists of: rows, columns, sizes, and the claims that it tests."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from soda_jax.config import variants
from soda_jax.reporting import paper

RELATIONS = (">", "<")
RESERVED = ("locks", "plan", "compilation_cache")  # folders of the study itself, beside those of its rows


@dataclasses.dataclass(frozen=True)
class Row:
    """A model, a training or a way of sampling.

    Attributes:
      name: its heading in the table; its runs' folder is `folder`.
      variant: of `config/variants.py`; "" is the size's config itself.
      fields: further fields of the config by dotted names, which win over the variant's and the size's.
      checkpoint_of: name of the row whose checkpoints are measured; "" for a row that is trained itself.
      printed: the paper's figures for it by column, as printed, where `Study.printed` does not find them.
    """

    name: str
    variant: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint_of: str = ""
    printed: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The name as a folder's: letters, digits, dots, plus and minus signs, and underscores between."""
        return re.sub(r"[^\w.+-]+", "_", self.name).strip("_.") or "row"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A named inequality between two rows: `row`'s column is above (">") or below ("<") that of `other`.

    Attributes:
      text: the claim in words.
      row, relation, other: names of rows, and one of `RELATIONS` between them.
      column: of the table.
      where: the paper's table or section that makes it.
      other_column: of `other`, where it is another one; then `other` may be `row` itself.
    """

    text: str
    row: str
    relation: str
    other: str
    column: str
    where: str
    other_column: str = ""

    @property
    def columns(self) -> tuple[str, str]:
        """The columns of `row` and of `other`."""
        return self.column, self.other_column or self.column


@dataclasses.dataclass(frozen=True)
class Printed:
    """Where the paper prints a column: dataset and metric of `reporting/paper.py`, and tables, the first found wins."""

    dataset: str
    metric: str
    tables: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Size:
    """A study at the size of some machine.

    Attributes:
      config: as --config takes it.
      columns: {column: the name of an evaluation's figure}, as {"probe": "linear_probe/label"}. Claims about columns
        that a size does not have are left out there.
      fields: fields of every row, by dotted names; a variant's own must not be among them.
      seeds: how many of them; they are 0, 1, 2, ...
      needs: what has to be there, for people: "" for nothing.
    """

    config: str
    columns: Mapping[str, str]
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeds: int = 3
    needs: str = ""


@dataclasses.dataclass(frozen=True)
class Study:
    """A table of the paper, or one of your own.

    Attributes:
      name: in letters, digits and underscores.
      title: the heading of its page.
      where: the paper's tables and sections that it is about.
      rows: the first one is the reference, which the others are compared with.
      claims: what is tested.
      sizes: by name; those of the package are "cpu", "gpu" and "paper".
      printed: where the paper prints a column, by column.
      curves: metrics of training that the page draws, for those rows that have them.
      notes: sentences for the page and the docs on what to keep in mind.
    """

    name: str
    title: str
    where: str
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]
    sizes: Mapping[str, Size]
    printed: Mapping[str, Printed] = dataclasses.field(default_factory=dict)
    curves: tuple[str, ...] = ("eval/loss", "probe/mean")
    notes: tuple[str, ...] = ()

    @property
    def reference(self) -> Row:
        return self.rows[0]

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def size(self, name: str) -> Size:
        """The size of that name.

        Raises:
          ValueError: there is none; the message lists them.
        """
        if name not in self.sizes:
            raise ValueError(f"--size={name}: the study {self.name} has no such size; use {', '.join(self.sizes)}")
        return self.sizes[name]

    def claims_at(self, size: Size) -> tuple[Claim, ...]:
        """The claims whose columns `size` has."""
        return tuple(claim for claim in self.claims if set(claim.columns) <= set(size.columns))


def check(study: Study) -> None:
    """Raises ValueError, in one line each, for everything in `study` that cannot be run."""
    problems = [*_check_names(study), *_check_rows(study), *_check_claims(study)]
    for name, size in study.sizes.items():
        if size.seeds < 1:
            problems.append(f"size {name!r} has seeds={size.seeds}; a size needs at least one")
        if not size.columns:
            problems.append(f"size {name!r} has no columns; name at least one figure of an evaluation")
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise ValueError(f"the study {study.name!r} cannot be run:\n{lines}")


def _check_names(study: Study) -> list[str]:
    problems = []
    if not re.fullmatch(r"\w+", study.name):
        problems.append(f"name {study.name!r} must consist of letters, digits and underscores")
    if len(study.rows) < 2:
        problems.append("a study needs two rows at least: there is nothing to compare")
    folders: dict[str, str] = {}
    for row in study.rows:
        if "," in row.name or not row.name.strip():
            problems.append(
                f"row {row.name!r}: a name is not empty, and --only separates names by commas; leave it out"
            )
        if row.folder.casefold() in RESERVED:
            problems.append(f"row {row.name!r}: the study itself has a folder {row.folder}; rename the row")
        if (before := folders.setdefault(row.folder.casefold(), row.name)) is not row.name:
            problems.append(f"rows {before!r} and {row.name!r} would share the folder {row.folder}; rename one")
    if not study.sizes:
        problems.append("a study needs at least one size")
    if unknown := sorted({source.dataset for source in study.printed.values()} - set(paper.DATASETS)):
        problems.append(f"printed: the paper has no dataset {', '.join(unknown)}; it has {', '.join(paper.DATASETS)}")
    return problems


def _check_rows(study: Study) -> list[str]:
    problems, trained = [], {row.name for row in study.rows if not row.checkpoint_of}
    for row in study.rows:
        if row.checkpoint_of and row.checkpoint_of not in trained:
            problems.append(f"row {row.name!r}: checkpoint_of={row.checkpoint_of!r} is no row that is trained")
        try:
            own = set(variants.find(row.variant).fields) if row.variant else set()
        except ValueError as error:
            problems.append(f"row {row.name!r}: {error}")
            continue
        for name, size in study.sizes.items():
            if hidden := sorted((own & set(size.fields)) - set(row.fields)):
                problems.append(
                    f"row {row.name!r}: size {name!r} sets {', '.join(hidden)}, which is what the variant is about; "
                    "leave it out of the size, or set it in the row"
                )
    return problems


def _check_claims(study: Study) -> list[str]:
    problems, names = [], {row.name for row in study.rows}
    known = {column for size in study.sizes.values() for column in size.columns}
    for claim in study.claims:
        if missing := sorted({claim.row, claim.other} - names):
            problems.append(f"claim {claim.text!r} names {', '.join(map(repr, missing))}, which is no row")
        if missing := sorted(set(claim.columns) - known):
            problems.append(f"claim {claim.text!r}: no size has the column {', '.join(map(repr, missing))}")
        if claim.relation not in RELATIONS:
            problems.append(f"claim {claim.text!r}: relation {claim.relation!r} is none of {', '.join(RELATIONS)}")
        if claim.row == claim.other and len(set(claim.columns)) == 1:
            problems.append(f"claim {claim.text!r} compares a figure with itself")
    return problems
