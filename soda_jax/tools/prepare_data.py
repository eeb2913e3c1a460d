"""Prepares a dataset as ArrayRecord, from official archives that you have downloaded or that TFDS downloads.

    python -m soda_jax.tools.prepare_data --dataset=list
    python -m soda_jax.tools.prepare_data --dataset=NAME --manual_dir=DOWNLOADS [--data_dir=TFDS_DATA_DIR]

What our own builders prepare needs no TensorFlow: put the archives into --manual_dir, they are checked and unpacked
there. TFDS's own builders need TensorFlow and download by themselves what does not lie in --manual_dir.

An interrupted run is simply repeated. What is unpacked or written shard by shard is kept (our builders); a single
archive or shard that was being written, and what TFDS's builders had done, starts over.
"""

import contextlib
import fcntl
import importlib.util
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator

import tensorflow_datasets as tfds
from absl import app, flags, logging
from requests import RequestException
from tabulate import tabulate
from tensorflow_datasets.core.download import download_manager
from tensorflow_datasets.core.download import util as download_util

from soda_jax.cli import parse_flags
from soda_jax.data.builders import BUILDERS, ArchiveError, archives, catalogue

_DATASET = flags.DEFINE_string("dataset", None, "Name of a dataset, e.g. afhq/v2; `list` shows all.")
_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir",
    None,
    "Folder with the downloaded archives; they are unpacked there. Default: DATA_DIR/downloads/manual.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where prepared datasets lie. Default: TFDS's, ~/tensorflow_datasets."
)

_STALE_SECONDS = 3600


def prepare(name: str, manual_dir: str | None, data_dir: str | None) -> str:
    """Prepares a dataset, or finds that it is prepared.

    Args:
        name: of the catalogue; without a config the dataset's first.
        manual_dir: folder with the archives; None for TFDS's default.
        data_dir: where prepared datasets lie; None for TFDS's default.

    Returns:
        What was done, with the number of examples of every split.

    Raises:
        ValueError: name unknown, a file missing or damaged, counts that are not those of the official dataset, a
            package missing, or another run at work. The message says what to do.
    """
    entry = catalogue.find(name)
    if entry is None:
        raise ValueError(f"dataset={name!r} is unknown; choose one of {', '.join(catalogue.DATASETS)}.")
    data_path = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    manual_path = pathlib.Path(manual_dir).expanduser() if manual_dir else data_path / "downloads" / "manual"
    builder = _builder(entry, data_path)
    with _only_run(data_path, entry):
        if pathlib.Path(builder.data_path).exists():
            return f"{entry.name} is already prepared: {_describe(entry, builder)}"
        _remove_leftovers(pathlib.Path(builder.data_path).parent)
        if entry.own:
            _provide_archive(entry, builder, manual_path)
        else:
            _check_packages(entry)
            _check_tfds_files(entry, manual_path)
        _run(entry, builder, manual_path)
        return f"{entry.name} is prepared: {_describe(entry, builder)}"


def _builder(entry: catalogue.Dataset, data_path: pathlib.Path):
    if not entry.own:
        return tfds.builder(entry.name, data_dir=data_path, file_format="array_record")
    base, _, config = entry.name.partition("/")
    return BUILDERS[base](config=config or None, data_dir=data_path, file_format="array_record")


def _run(entry: catalogue.Dataset, builder, manual_path: pathlib.Path) -> None:
    manual_path.mkdir(parents=True, exist_ok=True)
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_path))
    except (download_manager.NonMatchingChecksumError, download_util.DownloadError, RequestException) as error:
        if not entry.downloads:
            raise
        raise ValueError(_what_to_get(entry, list(entry.downloads), manual_path, error)) from error


@contextlib.contextmanager
def _only_run(data_path: pathlib.Path, entry: catalogue.Dataset) -> Iterator[None]:
    """Keeps a second run from preparing the same dataset at the same time."""
    folder = data_path / entry.name.split("/")[0]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".prepare_data.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{entry.name}: another run is preparing it in {folder}; wait for it.") from None
        yield


def _remove_leftovers(folder: pathlib.Path) -> None:
    """Removes the temporary folders that TFDS leaves when it is killed, unless something still writes there."""
    for path in folder.glob("incomplete.*"):
        latest = max((p.stat().st_mtime for p in (path, *path.rglob("*"))), default=0.0)
        if time.time() - latest > _STALE_SECONDS:
            shutil.rmtree(path)


def _provide_archive(entry: catalogue.Dataset, builder, manual_path: pathlib.Path) -> None:
    """Makes sure that the builder finds a complete archive; checks and unpacks what is not unpacked yet."""
    _check_whole_files(entry, manual_path)
    try:
        splits = builder.read_archive(manual_path)
    except ArchiveError as error:
        packed = [file for file in entry.files if file.gives and not (manual_path / file.gives).exists()]
        missing = [file for file in packed if not (manual_path / file.name).is_file()]
        if missing or not packed:
            raise ValueError(_what_to_get(entry, missing or list(entry.files), manual_path, error)) from error
        for file in packed:
            _unpack(file, manual_path)
        splits = builder.read_archive(manual_path)
    found = {split: len(items) for split, items in splits.items()}
    _check_counts(entry, found, f"what lies in {manual_path}", "Unpack or download it again.")


def _check_whole_files(entry: catalogue.Dataset, manual_path: pathlib.Path) -> None:
    """Compares the checksums of the files that are read as they are."""
    for file in entry.files:
        path = manual_path / file.name
        if not file.gives and file.checksum and path.is_file():
            print(f"checking {path}", flush=True)
            archives.check_checksum(path, file.checksum)


def _unpack(file: catalogue.File, manual_path: pathlib.Path) -> None:
    path = manual_path / file.name
    if file.checksum:
        print(f"checking {path}", flush=True)
        archives.check_checksum(path, file.checksum)
    print(f"unpacking {path}", flush=True)
    archives.unpack(path, manual_path / file.into)


def _check_tfds_files(entry: catalogue.Dataset, manual_path: pathlib.Path) -> None:
    missing = [file for file in entry.files if not (manual_path / file.name).is_file()]
    if missing:
        raise ValueError(_what_to_get(entry, missing, manual_path))
    _check_whole_files(entry, manual_path)


def _what_to_get(
    entry: catalogue.Dataset,
    missing: list[catalogue.File],
    manual_path: pathlib.Path,
    reason: Exception | None = None,
) -> str:
    lines = [f"{entry.name} needs, in {manual_path}:"]
    for file in missing:
        lines.append(f"  {file.name}" + (f", or unpacked {file.gives}" if file.gives else ""))
        lines.append(f"    from {file.url}" + (f" ({file.note})" if file.note else ""))
        if file.size:
            lines.append(f"    {file.size:,} bytes")
        if file.checksum:
            lines.append(f"    {file.checksum.replace(':', ' ')} ({file.source})")
    found = "" if reason is None else f" So far: {reason}"
    return "\n".join([*lines, f"Put it there and run this again.{found}"])


def _check_packages(entry: catalogue.Dataset) -> None:
    needed = ("tensorflow", *entry.packages)
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        wheels = ["'tensorflow-cpu>=2.20,<2.22'" if package == "tensorflow" else package for package in missing]
        raise ValueError(
            f"{entry.name} is prepared by TFDS's own builder, which needs {', '.join(missing)} (training does not):\n"
            f"  pip install {' '.join(wheels)}\n"
            "Or prepare it on another machine and copy its folder; ArrayRecord files are the same everywhere."
        )


def _describe(entry: catalogue.Dataset, builder) -> str:
    """The prepared splits in words, if their sizes are the official ones; else a ValueError."""
    found = {split: info.num_examples for split, info in builder.info.splits.items()}
    _check_counts(entry, found, str(builder.data_path), "Remove that folder, and prepare the complete archive.")
    sizes = ", ".join(f"{split} {count:,}" for split, count in found.items())
    return f"{sizes} in {builder.data_path}"


def _check_counts(entry: catalogue.Dataset, found: dict[str, int], where: str, remedy: str) -> None:
    for split, expected in entry.counts.items():
        if found.get(split, 0) != expected:
            raise ValueError(
                f"{entry.name}: {where} has {found.get(split, 0):,} images of {split!r}, the official dataset has "
                f"{expected:,}. {remedy}"
            )


def table() -> str:
    """All datasets of the catalogue: name, records, size of the download, who prepares them."""
    rows = []
    for entry in catalogue.DATASETS.values():
        size = f"{entry.download_size / 1e9:.2f} GB" if entry.download_size else "?"
        count = f"{sum(entry.counts.values()):,}" if entry.counts else "?"
        rows.append([entry.name, entry.title, count, size, "soda_jax" if entry.own else "TFDS, with TensorFlow"])
    return tabulate(
        rows,
        headers=["--dataset", "", "images", "download", "prepared by"],
        colalign=("left",) * 2 + ("right",) * 2 + ("left",),
    )


def run(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: unexpected arguments: {' '.join(argv[1:])}")
    if _DATASET.value == "list":
        print(table())
        return
    logging.set_verbosity(logging.WARNING)
    try:
        print(prepare(_DATASET.value, _MANUAL_DIR.value, _DATA_DIR.value))
    except (ValueError, OSError) as error:
        if os.environ.get("SODA_JAX_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    flags.mark_flag_as_required("dataset")
    app.run(run, flags_parser=parse_flags)
