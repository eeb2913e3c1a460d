"""Where examples come from: the one table of datasets, and `load_dataset`, which opens one by name.

A new dataset is a module in this folder, whose class offers what `Dataset` says, and an entry in `DATASETS`.
`load_dataset`, the config's checks, `build.dataset` and the docs read the table.
"""

import dataclasses
import importlib
import os

from soda_jax.data.datasets.base import Dataset, Labels
from soda_jax.data.datasets.parts import Part, parse_split

__all__ = ["DATASETS", "PREPARED", "Dataset", "DatasetEntry", "Labels", "entry_of", "load_dataset", "table_rows"]


@dataclasses.dataclass(frozen=True)
class DatasetEntry:
    """A dataset as far as configs, messages and docs know it.

    Attributes:
        module: in this folder; imported when the dataset is opened.
        opens: the class in it. It takes (root, split) and, by keyword, the options.
        what: one sentence for docs.
        needs_root: what `root` has to be, for the message where it is missing; "" where it may be.
        options: what the class takes by keyword.
    """

    module: str
    opens: str
    what: str
    needs_root: str = ""
    options: tuple[str, ...] = ()


DATASETS: dict[str, DatasetEntry] = {
    "scenes": DatasetEntry(
        module="scenes",
        opens="Scenes",
        what="480,000 rooms of 32 to 128 px with six labelled factors, rendered here in seconds and then cached.",
        options=("resolution",),
    ),
    "scenes_free": DatasetEntry(
        module="scenes",
        opens="FreeScenes",
        what="The same rooms from free cameras, 48 views an object, with exact poses; rendered here and cached.",
        options=("resolution", "num_views"),
    ),
    "scenes_handheld": DatasetEntry(
        module="scenes",
        opens="HandheldScenes",
        what="The same rooms as snapshots: from any side and distance, aside, tilted, in any light.",
        options=("resolution", "num_views"),
    ),
    "folder": DatasetEntry(
        module="folder",
        opens="ImageFolder",
        what="Any tree of image files, at `config.data.root`; `labels.csv` labels them, or sub-folders are classes.",
        needs_root="the folder that holds the images",
        options=("bad_files", "max_bad_share"),
    ),
    "multiview": DatasetEntry(
        module="multiview",
        opens="MultiViewFolder",
        what="Objects seen from known cameras: one folder each with `transforms.json` (NeRF, Blender), below "
        "`config.data.root`.",
        needs_root="the folder that holds a folder for each object",
        options=("cache_bytes", "min_views", "bad_files", "max_bad_share"),
    ),
}

# Of every other name; the class takes the name first.
PREPARED = DatasetEntry(
    module="tfds_dataset",
    opens="TfdsDataset",
    what="A set that `prepare_data` or TFDS has prepared as ArrayRecord; it is read without TensorFlow.",
    options=("cache_bytes", "eyes"),
)


def entry_of(name: str) -> DatasetEntry:
    """The entry of a dataset; `PREPARED` for any name that is not in `DATASETS`."""
    return DATASETS.get(name, PREPARED)


def load_dataset(
    name: str,
    root: str | os.PathLike | None,
    split: str,
    *,
    resolution: int | None = None,
    **options,
) -> Dataset:
    """Opens one split of a dataset.

    Args:
        name: one of `DATASETS`, or the name of any dataset that has been prepared, "cifar10", "imagenet2012",
            "celeb_a:2.1.0".
        root: scenes: where to cache the geometry (None: the user's cache folder); folder, multiview:
            the tree; TFDS: its `data_dir` (None: TFDS's own default).
        split: "train", "validation", "test", or whatever the TFDS dataset calls its splits; or a part of one
            that is drawn at random once and for all, "train@0-90%".
        resolution: side of rendered images. Stored images keep their size; views resize them.
        **options: what else the dataset's entry lists.

    Raises:
        ValueError: unknown split, missing or unprepared data, or an option that does not fit,
            naming the remedy.
    """
    entry = entry_of(name)
    if unknown := sorted(set(options) - set(entry.options)):
        has = ", ".join(entry.options)
        raise ValueError(f"dataset {name!r} has no option {', '.join(unknown)}; it has {has}.")
    if resolution is not None and "resolution" in entry.options:
        options["resolution"] = resolution
    # Imported when named: TFDS alone takes seconds, and worker processes import this module.
    opens = getattr(importlib.import_module(f"{__name__}.{entry.module}"), entry.opens)
    whole, part = parse_split(split)
    opened = opens(name, root, whole, **options) if entry is PREPARED else opens(root, whole, **options)
    return opened if part == (0, 100) else Part(opened, *part)


def table_rows() -> list[tuple[str, str]]:
    """(name, what it is) of every dataset, for the docs."""
    rows = [(f"`{name}`", entry.what) for name, entry in DATASETS.items()]
    return [*rows, ("any other name", PREPARED.what)]
