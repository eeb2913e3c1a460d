"""labels.csv: classes, attributes and numbers of a folder's images, a row a file."""

import array
import csv
import dataclasses
import os
import pathlib
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from soda_jax.data.datasets.base import Labels, readable_name

LABELS_FILE = "labels.csv"
FILE_COLUMN = "file"
LABEL_COLUMN = "label"  # holds classes whatever they look like, 0 to 9 too
MAX_CLASSES = 10_000
MAX_LEVELS = 100  # as `metrics.disentanglement` tells discrete factors from continuous ones
IMAGES_PER_LEVEL = 5  # on average; with fewer, levels would be all but names of images
BINS = 10
_FEW_ROWS = 20  # up to so many, each row may have a class of its own
_SHOWN = 3
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NO_NUMBERS = frozenset(("nan", "inf", "-inf", "infinity", "na", "n/a", "null", "none", "?", "-"))
_REMEDY = "correct it, or rename the file if it holds no labels"


@dataclasses.dataclass(frozen=True)
class ImageLabels:
    """What labels.csv says of images.

    Attributes:
        labels: by kind, "label", "attributes" and "factors".
        values: int32 by kind, rows in the order of the images: `label` [N], the others [N, columns].
        described: one sentence on the columns and what has become of them.
    """

    labels: dict[str, Labels]
    values: dict[str, np.ndarray]
    described: str


@dataclasses.dataclass(frozen=True)
class _Column:
    """A column of the file: its different cells, and the number of each row's, so that a million rows stay small."""

    name: str
    cells: list[str]
    rows: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Table:
    """The file's rows: the line that each ends in, the row of each image's path, and the columns beside it."""

    file: pathlib.Path
    lines: np.ndarray
    row_of: dict[str, int]
    columns: list[_Column]

    def line(self, column: _Column, cell: str) -> int:
        """The first line that has this cell."""
        return int(self.lines[int(np.argmax(column.rows == column.cells.index(cell)))])


@dataclasses.dataclass(frozen=True)
class _Coded:
    """A column as classes: `values` int32 [N] in 0..size-1; `classes` are the names of text's."""

    kind: str  # "text", "attribute" or "number"
    name: str
    size: int
    values: np.ndarray
    classes: tuple[str, ...] = ()
    note: str = ""


def read_labels(file: pathlib.Path, images: Sequence[str]) -> ImageLabels:
    """Reads a labels.csv. `docs/data.md` has its form.

    Args:
        file: its path; paths in it are relative to its folder.
        images: paths of the images that need labels, relative to the same folder, with "/".

    Raises:
        ValueError: with file and line. It is no UTF-8 or no CSV; the header, a row's length or a cell is wrong; a file
            is missing or named twice; an image has no row; a column has too many classes to be one.
    """
    table = _read(file)
    order = _rows_of(table, images)
    coded = [_coded(table, column, order) for column in table.columns]
    texts = [column for column in coded if column.kind == "text"]
    attributes = [column for column in coded if column.kind == "attribute"]
    named = [column for column in texts if column.name.lower() == LABEL_COLUMN]
    labels: dict[str, Labels] = {}
    values: dict[str, np.ndarray] = {}
    if named or len(texts) == 1:
        label = (named or texts)[0]
        labels["label"] = Labels((label.size,), (label.name,), label.classes)
        values["label"] = label.values
    kinds = {"attributes": attributes}
    # Factors hold every column, so that DCI sees attributes and classes beside the numbers.
    if len(texts) > 1 or any(column.kind == "number" for column in coded):
        kinds["factors"] = coded
    for kind, columns in kinds.items():
        if columns:
            labels[kind] = Labels(tuple(column.size for column in columns), tuple(column.name for column in columns))
            values[kind] = np.stack([column.values for column in columns], axis=1)
    return ImageLabels(labels, values, _described(file, labels, coded))


def _read(file: pathlib.Path) -> _Table:
    with open(file, encoding="utf-8-sig", newline="") as opened:  # some editors begin a file with a byte order mark
        reader = csv.reader(opened, strict=True)
        every = _cells(file, reader)
        names = _header(file, next(every, []))
        lines, row_of = array.array("q"), {}
        numbers: list[dict[str, int]] = [{} for _ in names]
        codes = [array.array("i") for _ in names]
        for row in every:
            if not row:  # a blank line
                continue
            where = f"{file}, line {reader.line_num}"
            path, cells = _row(where, row, names)
            if path in row_of:
                raise ValueError(f"{where}: {path!r} has a row in line {lines[row_of[path]]} too; keep one.")
            row_of[path] = len(lines)
            lines.append(reader.line_num)
            for cell, number, column in zip(cells, numbers, codes, strict=True):
                column.append(number.setdefault(cell, len(number)))
    if not lines:
        raise ValueError(f"{file} has a header and no rows: {_REMEDY}.")
    columns = [
        _Column(name, list(number), np.array(column, np.int32))
        for name, number, column in zip(names, numbers, codes, strict=True)
    ]
    return _Table(file, np.array(lines, np.int64), row_of, columns)


def _cells(file: pathlib.Path, reader: Any) -> Iterator[list[str]]:
    """The rows of a csv.reader, with errors that name the line."""
    try:
        yield from reader
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num} is no CSV ({error}); {_REMEDY}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not UTF-8 somewhere after line {reader.line_num} ({error.reason}); save it as CSV in UTF-8."
        ) from None


def _header(file: pathlib.Path, cells: list[str]) -> list[str]:
    """The names of the columns beside `file`."""
    names = [cell.strip() for cell in cells]
    if not names or names[0] != FILE_COLUMN:
        first = readable_name(names[0]) if names else ""
        raise ValueError(
            f"{file}, line 1: the first column is {first!r}, and must be {FILE_COLUMN!r}, with commas between columns; "
            f"{_REMEDY}."
        )
    if len(names) == 1:
        raise ValueError(f"{file}, line 1: there is no column of labels beside {FILE_COLUMN!r}; {_REMEDY}.")
    for place, name in enumerate(names):
        if not name or name in names[:place]:
            what = f"is called {readable_name(name)!r} like another" if name else "has no name"
            raise ValueError(f"{file}, line 1: column {place + 1} {what}; give each a name of its own.")
    return names[1:]


def _row(where: str, cells: list[str], names: list[str]) -> tuple[str, list[str]]:
    """(normal path, stripped cells of the other columns) of a row."""
    if len(cells) != len(names) + 1:
        raise ValueError(f"{where} has {len(cells)} cells, and the header {len(names) + 1}; {_REMEDY}.")
    path, *rest = (cell.strip() for cell in cells)
    for name, cell in zip((FILE_COLUMN, *names), (path, *rest), strict=True):
        if not cell:
            raise ValueError(f"{where}: {readable_name(name)!r} is empty; every row needs a value in each column.")
    return posixpath.normpath(path), rest


def _rows_of(table: _Table, images: Sequence[str]) -> np.ndarray:
    """The row of each image, int [N]; each row must be of a file that exists, and each image must have one."""
    folder, known = table.file.parent, set(images)
    for path, row in table.row_of.items():
        if path not in known and not os.path.isfile(os.path.join(folder, path)):
            hint = "; paths have / between folders" if "\\" in path else ""
            raise ValueError(
                f"{table.file}, line {table.lines[row]}: there is no file {path!r} in {folder}{hint}. Correct the "
                "path, which is relative to that folder, or remove the row."
            )
    lacking = [image for image in images if image not in table.row_of]
    if lacking:
        shown = ", ".join(map(readable_name, lacking[:_SHOWN])) + (", ..." if len(lacking) > _SHOWN else "")
        raise ValueError(
            f"{table.file}: {len(lacking)} of {len(images)} images have no row: {shown}. Add rows, or move these "
            "images elsewhere."
        )
    return np.array([table.row_of[image] for image in images], np.int64)


def _coded(table: _Table, column: _Column, order: np.ndarray) -> _Coded:
    """The column of the images as classes, of the kind that its cells show."""
    used, where = np.unique(column.rows[order], return_inverse=True)
    cells = [column.cells[number] for number in used]
    name = readable_name(column.name)
    if column.name.lower() == LABEL_COLUMN:
        return _text(table, name, cells, where)
    lowered = [cell.lower() for cell in cells]
    if set(lowered) <= {"true", "false"}:
        return _Coded("attribute", name, 2, np.array([cell == "true" for cell in lowered], np.int32)[where])
    rest = [cell for cell in cells if not _NUMBER.fullmatch(cell)]
    if not rest:
        numbers = np.array([float(cell) for cell in cells])
        if not np.isfinite(numbers).all():
            rest = [cells[int(np.argmin(np.isfinite(numbers)))]]
        elif set(numbers) <= {0.0, 1.0} or set(numbers) <= {-1.0, 1.0}:
            return _Coded("attribute", name, 2, (numbers > 0).astype(np.int32)[where])
        else:
            return _numbers(name, numbers[where])
    # A few gaps must not turn numbers into text, a class for each number.
    elif len(rest) == len(cells) or not {cell.lower() for cell in rest} <= _NO_NUMBERS:
        return _text(table, name, cells, where)
    line = table.line(column, rest[0])
    raise ValueError(f"{table.file}, line {line}: {name!r} is {rest[0]!r}, and a number elsewhere; give one.")


def _text(table: _Table, name: str, cells: list[str], where: np.ndarray) -> _Coded:
    count, rows = len(cells), len(where)
    if count > MAX_CLASSES or (count == rows and rows > _FEW_ROWS):
        why = f"more than {MAX_CLASSES:,}" if count > MAX_CLASSES else "one for each image"
        raise ValueError(
            f"{table.file}: column {name!r} has {count:,} different texts, {why}, which are no classes; remove the "
            "column."
        )
    # Numbers of classes sort as numbers: 9 before 10.
    whole = all(map(_INTEGER.fullmatch, cells))
    order = sorted(range(count), key=lambda i: (int(cells[i]), cells[i]) if whole else (0, cells[i]))
    place = np.empty(count, np.int32)
    place[order] = np.arange(count)
    return _Coded("text", name, count, place[where], tuple(readable_name(cells[i]) for i in order))


def _numbers(name: str, values: np.ndarray) -> _Coded:
    """Few different numbers as levels in their order; many as bins."""
    levels, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    count, rows = len(levels), len(values)
    if count <= BINS or (count <= MAX_LEVELS and rows >= IMAGES_PER_LEVEL * count):
        return _Coded("number", name, count, where.astype(np.int32))
    bins, bin_of = np.unique(_quantile_bins(counts, BINS), return_inverse=True)
    return _Coded("number", name, len(bins), bin_of.astype(np.int32)[where], note=f" of {count} numbers")


def _quantile_bins(counts: np.ndarray, bins: int) -> np.ndarray:
    """The bin 0..bins-1 of each level, int [levels], by the middle of its share of all rows.

    Bins hold about as many rows each, and equal numbers are never apart.
    """
    middles = (np.cumsum(counts) - counts / 2) / counts.sum()
    return np.minimum((middles * bins).astype(np.int64), bins - 1)


def _described(file: pathlib.Path, labels: dict[str, Labels], coded: list[_Coded]) -> str:
    notes = {column.name: column.note for column in coded}
    parts = [
        f"{kind} "
        + ", ".join(f"{n} ({size}{notes[n]})" for n, size in zip(found.names[:8], found.sizes, strict=False))
        + (", ..." if len(found.names) > 8 else "")
        for kind, found in labels.items()
    ]
    return f"{readable_name(os.fspath(file))} gives the labels, with the number of classes: {'; '.join(parts)}."
