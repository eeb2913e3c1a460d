"""Finds a prepared TFDS dataset on the disk, and says what is wrong with one that cannot be read."""

import json
import os
import pathlib
import re
from concurrent import futures

import tensorflow_datasets as tfds
from array_record.python import array_record_module

from soda_jax.data import builders
from soda_jax.data.builders import catalogue
from soda_jax.data.datasets import DATASETS

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_INFO, _FEATURES = "dataset_info.json", "features.json"
_READERS = 16


class RecordsError(ValueError):
    """Records of a prepared dataset that cannot be read."""

    def __init__(self, folder: str | os.PathLike, what: str, reason: object):
        # All to Exception: so that the error survives pickling, on its way from a worker process.
        super().__init__(folder, what, reason)
        self.folder, self.what, self.reason = folder, what, str(reason)

    def __str__(self) -> str:
        return (
            f"{self.what} in {self.folder} cannot be read ({self.reason}). Check the disk; if it is sound, copy the "
            "files again from where they were prepared, or delete the folder and prepare the dataset again."
        )

    def __reduce__(self):
        return RecordsError, (os.fspath(self.folder), self.what, self.reason)


def prepared_builder(name: str, root: str | os.PathLike | None) -> tfds.core.DatasetBuilder:
    """The builder of a dataset that lies prepared, as ArrayRecord, under `root` (None: TFDS's default folder).

    Raises:
        ValueError: it is unknown, not prepared, only in other versions, damaged, or in another format; with the remedy.
    """
    data_dir = None if root is None else os.path.expanduser(os.fspath(root))
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        _refuse_damaged(name, data_dir, _folders(name, data_dir))
        _refuse_other_versions(name, data_dir)
        raise ValueError(
            f"dataset {name!r} is neither a TFDS dataset nor prepared under root={data_dir!r}. Check the name; "
            f"datasets of our own are {', '.join([*DATASETS, *sorted(builders.BUILDERS)])}."
        ) from None
    # TFDS raises nearly anything: assertions on versions, errors of JSON and protocol buffers, of classes' names.
    except Exception as error:
        _refuse_damaged(name, data_dir, _folders(name, data_dir))
        _refuse_other_versions(name, data_dir)
        raise ValueError(f"dataset {name!r} under root={data_dir!r} cannot be opened: {error}") from error
    if not pathlib.Path(builder.data_path).exists():
        _refuse_other_versions(name, data_dir)
        raise ValueError(
            f"dataset {name!r} is not prepared: {builder.data_path} does not exist. Prepare it once:\n"
            f"  {_preparing_command(name, data_dir)}"
        )
    _refuse_damaged(name, data_dir, [pathlib.Path(builder.data_path)])
    file_format = builder.info.file_format
    if file_format is not None and file_format.value != "array_record":
        raise ValueError(
            f"dataset {name!r} in {builder.data_path} is stored as {file_format.value}; only "
            "array_record has random access. Convert it:\n"
            f"  tfds convert_format --dataset_dir={builder.data_path} "
            "--out_file_format=array_record --out_path=NEW_DATASET_DIR"
        )
    return builder


def check_shards(builder: tfds.core.DatasetBuilder, split: str) -> None:
    """Raises RecordsError unless every shard that `split` reads has as many records as dataset_info.json says.

    Args:
        split: as TFDS takes it: a name, a slice, a sum of them, or "all".
    """
    instructions = builder.info.splits[split].file_instructions
    expected = {os.fspath(part.filename): part.examples_in_shard for part in instructions}
    with futures.ThreadPoolExecutor(_READERS) as pool:
        found = dict(zip(expected, pool.map(_num_records, expected), strict=True))
    bad = {path: found[path] for path, count in expected.items() if found[path] != count}
    if bad:
        path, reason = next(iter(bad.items()))
        reason = f"it has {reason:,} of {expected[path]:,} records" if isinstance(reason, int) else reason
        more = f" ({len(bad)} of {len(expected)} shards are damaged)" if len(bad) > 1 else ""
        raise RecordsError(builder.data_path, f"the shard {os.path.basename(path)}{more}", reason)


def _num_records(path: str) -> int | str:
    """The number of records of a shard, or why it cannot be told."""
    try:
        size = os.stat(path).st_size
        reader = array_record_module.ArrayRecordReader(path)
        try:
            return reader.num_records()
        finally:
            reader.close()
    except FileNotFoundError:
        return "it is missing"
    except (RuntimeError, OSError, ValueError) as error:
        return str(error) if isinstance(error, OSError) else f"{error or 'it has no end'}; it has {size:,} bytes"


def _parts(name: str) -> tuple[str, str]:
    """The dataset (with its config, if it is named) and the version ("" if none is)."""
    base, _, version = name.partition(":")
    return base, version


def _folders(name: str, data_dir: str | None) -> list[pathlib.Path]:
    """Folders of versions in the data directory: of the named config, or of all; of a named version, its own."""
    base, version = _parts(name)
    top = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser() / base
    found = [folder for folder in (*top.glob("*"), *top.glob("*/*")) if _VERSION.fullmatch(folder.name)]
    return sorted(folder for folder in found if folder.is_dir() and (not version or folder.name == version))


def _refuse_other_versions(name: str, data_dir: str | None) -> None:
    """Raises ValueError if the dataset is prepared, but not in the version asked for, or that TFDS would take."""
    base, version = _parts(name)
    if version and _folders(name, data_dir):
        return
    top = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser() / base
    others = [folder for folder in _folders(base, data_dir) if (folder / _INFO).exists()]
    names = [f"{base}{'' if f.parent == top else f'/{f.parent.name}'}:{f.name}" for f in others]
    wanted = f"version {version}" if version else "TFDS's present version of it"
    if names:
        raise ValueError(
            f"dataset {name!r}: {wanted} is not prepared under {top.parent}, but there is {', '.join(names)}; set "
            f"config.data.name={names[-1]!r}{' or another of them' if len(names) > 1 else ''}, or prepare it:\n"
            f"  {_preparing_command(name, data_dir)}"
        )


def _refuse_damaged(name: str, data_dir: str | None, folders: list[pathlib.Path]) -> None:
    """Raises ValueError if a description of the prepared dataset is missing or damaged in one of its folders."""
    for folder in folders:
        for file in (folder / _INFO, folder / _FEATURES):
            if (reason := _damage(file)) is not None:
                raise ValueError(
                    f"dataset {name!r} is damaged: {file} {reason}. Copy the file again from where the dataset was "
                    f"prepared, or delete {folder} and prepare it again:\n  {_preparing_command(name, data_dir)}"
                )


def _damage(file: pathlib.Path) -> str | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError, RecursionError) as error:
        return f"cannot be read ({error})"
    required = ("name", "version", "splits") if file.name == _INFO else ("pythonClassName",)
    if not isinstance(content, dict):
        return "is no description of a dataset"
    missing = [key for key in required if not content.get(key)]
    return f"lacks {', '.join(missing)}" if missing else None


def _preparing_command(name: str, data_dir: str | None) -> str:
    place = f" --data_dir={data_dir}" if data_dir else ""
    if (entry := catalogue.find(name)) is not None:
        return f"python -m soda_jax.tools.prepare_data --dataset={entry.name} --manual_dir=DOWNLOADS{place}"
    location = f", data_dir={data_dir!r}" if data_dir else ""
    return (
        f'python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}{location}, '
        "file_format='array_record').download_and_prepare()\"  # most sets need TensorFlow for that"
    )
