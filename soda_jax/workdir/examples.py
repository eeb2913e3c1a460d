"""Held-out examples beside an exported model: pictures, what is known of them, their latents. Nothing in it can run.

    examples/examples.json        of each example its files, labels, credit, licence and, where known, cameras
    examples/0000.png             a picture, without loss; of an object in several views 0000_00.png, 0000_01.png, ...
    examples/codes.safetensors    their latents by the run's float32 weights; not there for a model without any

All pictures have one size, and all objects as many views. What is read is checked: sizes and checksums by `soda.json`,
then every value.
"""

import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from soda_jax.data.cameras import check_rigid
from soda_jax.data.decode import decode_image
from soda_jax.workdir import checksums, export, safetensors

FORMAT_VERSION = 1
FILE, CODES = f"{export.EXAMPLES}/examples.json", f"{export.EXAMPLES}/codes.safetensors"
MOST = 10_000  # examples, as a name has four digits
MOST_VIEWS = 100
MOST_SIDE = 4096  # pixels
_FORMAT = "soda_jax examples"
_TENSOR = "codes"
_MOST_BYTES = {FILE: 1 << 24, CODES: 1 << 30}
_MOST_PICTURE = 3 * MOST_SIDE**2 + (1 << 20)
_KINDS = ("label", "attributes", "factors")
_PNG = b"\x89PNG\r\n\x1a\n"
_AGAIN = "get the folder again from where it came from"


@dataclasses.dataclass(frozen=True, eq=False)
class StoredExamples:
    """N examples.

    Attributes:
      images: uint8 [N, H, W, 3], or [N, n, H, W, 3] of objects in n views each.
      labels: by kind int32 [N] ("label") or [N, A] ("attributes", "factors"); {} without any.
      poses: float32 [N, n, 4, 4] camera-to-world as in `soda_jax.data`, with intrinsics float32 [N, n, 4] in pixels of
        these images; both None where no camera is known.
      credits: where each comes from.
      licenses: of each, as the hub names it; "" where none is said.
      codes: float32 [N, ...], latents; None of a model without any.
    """

    images: np.ndarray
    labels: dict[str, np.ndarray]
    poses: np.ndarray | None
    intrinsics: np.ndarray | None
    credits: tuple[str, ...]
    licenses: tuple[str, ...]
    codes: np.ndarray | None


def to_files(examples: StoredExamples, weights_digest: str) -> dict[str, bytes]:
    """The files' contents by their paths in the export's folder; the same examples give the same bytes.

    Args:
      weights_digest: of the weights that the codes are of.

    Raises:
      ValueError: there are none, or more, or larger ones, than the format takes.
    """
    shape = examples.images.shape
    views = shape[1] if len(shape) == 5 else 1
    if not 1 <= shape[0] <= MOST or not 1 <= views <= MOST_VIEWS or max(shape[-3:-1]) > MOST_SIDE:
        raise ValueError(
            f"{shape[0]} examples in {views} views of {shape[-3]} x {shape[-2]} pixels: an export takes 1 to {MOST:,} "
            f"in up to {MOST_VIEWS} views of up to {MOST_SIDE} pixels a side"
        )
    files, rows = {}, []
    for i, pictures in enumerate(examples.images.reshape(shape[0], views, *shape[-3:])):
        names = [_name(i)] if len(shape) == 4 else [_name(i, view) for view in range(views)]
        files |= {f"{export.EXAMPLES}/{name}": _png(picture) for name, picture in zip(names, pictures, strict=True)}
        row: dict[str, Any] = {"files": names, "credit": examples.credits[i], "license": examples.licenses[i]}
        row["labels"] = {kind: values[i].tolist() for kind, values in examples.labels.items()}
        if examples.poses is not None:
            cameras = zip(examples.poses[i].tolist(), examples.intrinsics[i].tolist(), strict=True)
            row["cameras"] = [{"pose": pose, "intrinsics": intrinsics} for pose, intrinsics in cameras]
        rows.append(row)
    content = {"format": _FORMAT, "format_version": FORMAT_VERSION, "examples": rows}
    files[FILE] = (json.dumps(content, indent=1) + "\n").encode("utf-8")
    if examples.codes is not None:
        said = {"format": _FORMAT, "format_version": str(FORMAT_VERSION), "weights_digest": weights_digest}
        files[CODES] = safetensors.to_bytes({_TENSOR: np.asarray(examples.codes, np.float32)}, said)
    return files


def contents(folder: str | os.PathLike) -> dict[str, bytes]:
    """The files of an export's examples as they are, by their paths in it; {} where there are none.

    Raises:
      ValueError: one is not as soda.json says.
    """
    files = export.described(folder)["files"]
    return {name: _content(pathlib.Path(folder), name, files[name]) for name in files if _is_ours(name)}


def read(folder: str | os.PathLike) -> StoredExamples | None:
    """The examples of an export; None where there are none.

    Raises:
      ValueError: a file is missing, cut, altered, too large, or not what this format has; the message names it.
    """
    path, listed = pathlib.Path(folder), export.described(folder)
    files = {name: entry for name, entry in listed["files"].items() if _is_ours(name)}
    if not files:
        return None
    if FILE not in files:
        raise ValueError(f"{path / export.DESCRIPTION} lists pictures, but not {FILE}: {_AGAIN}")
    try:
        content = json.loads(_content(path, FILE, files[FILE]).decode("utf-8"))
        rows = _rows(content)
    # What is wrong in a way that is not asked about shows as one of these.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path / FILE} cannot be read ({type(error).__name__}: {error}): {_AGAIN}") from error
    named = {f"{export.EXAMPLES}/{name}" for row in rows for name in row["files"]}
    if odd := sorted(named ^ (files.keys() - {FILE, CODES})):
        where = "is not listed" if odd[0] in named else f"is in no row of {FILE}"
        raise ValueError(f"{path}: {odd[0]} {where}: {_AGAIN}")
    pictures = [[_picture(path, f"{export.EXAMPLES}/{name}", files) for name in row["files"]] for row in rows]
    shapes = {picture.shape for views in pictures for picture in views}
    if len(shapes) > 1:
        raise ValueError(f"{path}: the pictures in {export.EXAMPLES}/ have several sizes, {sorted(shapes)}: {_AGAIN}")
    images = np.array(pictures)
    posed = "cameras" in rows[0]
    return StoredExamples(
        images=images if "_" in rows[0]["files"][0] else images[:, 0],
        labels={kind: np.array([row["labels"][kind] for row in rows], np.int32) for kind in rows[0]["labels"]},
        poses=np.array([[c["pose"] for c in row["cameras"]] for row in rows], np.float32) if posed else None,
        intrinsics=np.array([[c["intrinsics"] for c in row["cameras"]] for row in rows], np.float32) if posed else None,
        credits=tuple(row["credit"] for row in rows),
        licenses=tuple(row["license"] for row in rows),
        codes=_codes(path, files[CODES], len(rows), listed["weights_digest"]) if CODES in files else None,
    )


def _is_ours(name: str) -> bool:
    return name.startswith(f"{export.EXAMPLES}/")


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", optimize=True)
    return file.getvalue()


def _content(folder: pathlib.Path, name: str, entry: Mapping[str, Any]) -> bytes:
    most = _MOST_BYTES.get(name, _MOST_PICTURE)
    if entry["size"] > most:
        raise ValueError(f"{folder}: {name} has {entry['size']:,} bytes, more than any such file has: {_AGAIN}")
    if wrong := checksums.file_damage(folder, name, entry):
        raise ValueError(f"{folder}: {wrong}: {_AGAIN}")
    return (folder / name).read_bytes()


def _picture(folder: pathlib.Path, name: str, files: Mapping[str, Any]) -> np.ndarray:
    content = _content(folder, name, files[name])
    # Its header tells the size, which no decoder need find out.
    sides = (int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big"))
    if not content.startswith(_PNG) or not 1 <= min(sides) <= max(sides) <= MOST_SIDE:
        raise ValueError(f"{folder}: {name} is no PNG of up to {MOST_SIDE} pixels a side: {_AGAIN}")
    return decode_image(content, name=str(folder / name))


def _codes(folder: pathlib.Path, entry: Mapping[str, Any], count: int, weights_digest: str) -> np.ndarray:
    _content(folder, CODES, entry)
    path = folder / CODES
    header, said = safetensors.read_header(path), safetensors.read_metadata(path)
    if header.keys() != {_TENSOR} or header[_TENSOR].dtype != "F32" or header[_TENSOR].shape[:1] != (count,):
        raise ValueError(f"{path} does not hold the float32 codes of {count} examples: {_AGAIN}")
    if said.get("weights_digest") != weights_digest:
        raise ValueError(f"{path} holds codes of other weights: {_AGAIN}")
    return safetensors.read_tensor(path, _TENSOR, header[_TENSOR])


def _rows(content: Any) -> list[dict[str, Any]]:
    """The examples' rows, each as the first, with values of the right kind, shape and range."""
    if content["format"] != _FORMAT:
        raise ValueError("it describes no examples of soda_jax")
    if type(content["format_version"]) is not int or content["format_version"] > FORMAT_VERSION:
        raise ValueError(f"its format is {content['format_version']}, this release reads {FORMAT_VERSION}: update it")
    rows = content["examples"]
    if not isinstance(rows, list) or not 1 <= len(rows) <= MOST:
        raise ValueError(f"it has no list of 1 to {MOST:,} examples")
    first = _form(rows[0])
    for number, row in enumerate(rows):
        if _form(row) != first:
            raise ValueError(f"example {number} has other fields, labels or numbers of views than the first")
        if row["files"] not in ([_name(number)], [_name(number, view) for view in range(len(row["files"]))]):
            raise ValueError(f"the files of example {number} have other names than pictures here have")
        for kind, values in row["labels"].items():
            if kind not in _KINDS or np.ndim(values) != (kind != "label"):
                raise ValueError(f"example {number} has labels of an unknown kind, {kind!r}")
            if not all(type(v) is int and -(1 << 31) <= v < 1 << 31 for v in np.ravel(np.array(values, object))):
                raise ValueError(f"a label of example {number} is no class")
        if not isinstance(row["credit"], str) or not isinstance(row["license"], str):
            raise ValueError(f"credit or license of example {number} are no text")
        if "cameras" in row:
            _check_cameras(number, row["cameras"])
    return rows


def _name(number: int, view: int | None = None) -> str:
    return f"{number:04d}.png" if view is None else f"{number:04d}_{view:02d}.png"


def _form(row: Any) -> tuple[Any, ...]:
    """What all rows have in common: views, sizes of labels, whether there are cameras."""
    required, files = {"files", "credit", "license", "labels"}, row["files"]
    if row.keys() - {"cameras"} != required or not isinstance(files, list) or not 1 <= len(files) <= MOST_VIEWS:
        raise ValueError(f"an example does not have {', '.join(sorted(required))}, or has more")
    if "cameras" in row and len(row["cameras"]) != len(files):
        raise ValueError("an example has not one camera for each of its views")
    labels = tuple((kind, np.shape(values)) for kind, values in row["labels"].items())
    return len(files), "_" in files[0], labels, "cameras" in row


def _check_cameras(number: int, cameras: Any) -> None:
    poses = np.array([camera["pose"] for camera in cameras], np.float64)
    intrinsics = np.array([camera["intrinsics"] for camera in cameras], np.float64)
    if poses.shape != (len(cameras), 4, 4) or intrinsics.shape != (len(cameras), 4):
        raise ValueError(f"a camera of example {number} has other sizes than [4, 4] and [4]")
    check_rigid(poses)
    if not np.isfinite(intrinsics).all() or (intrinsics[:, :2] <= 0).any():
        raise ValueError(f"a camera of example {number} has impossible intrinsics")
