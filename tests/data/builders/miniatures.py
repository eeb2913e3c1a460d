"""Writes small archives of the official layouts. A picture is made of its number, and can be told from its pixels."""

import io
import pathlib

import numpy as np
from PIL import Image


def pixels(number, height=6, width=8):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def png(array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: pathlib.Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def afhq(root: pathlib.Path, held_out: str = "test") -> dict[bytes, tuple[str, int]]:
    """3 + 2 images a class. Returns pixels -> (split, class)."""
    known = {}
    for split, folder, count in (("train", "train", 3), ("test", held_out, 2)):
        for label, name in enumerate(("cat", "dog", "wild")):
            for i in range(count):
                picture = pixels(100 * label + 10 * (split == "test") + i)
                write(root / folder / name / f"flickr_{name}_{i:06d}.png", png(picture))
                known[picture.tobytes()] = (split, label)
    return known


def tiny_imagenet(root: pathlib.Path) -> dict[bytes, tuple[str, int]]:
    """Three classes, 2 training and 1 validation image each; the ids are not in order."""
    ids = ["n03", "n01", "n02"]
    write(root / "wnids.txt", "\n".join(ids) + "\n")
    write(root / "words.txt", "n00\tthing\nn01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane\n")
    known, rows = {}, []
    for n, wordnet_id in enumerate(ids):
        label = sorted(ids).index(wordnet_id)
        for i in range(2):
            write(root / "train" / wordnet_id / "images" / f"{wordnet_id}_{i}.png", png(pixels(10 * n + i)))
            known[pixels(10 * n + i).tobytes()] = ("train", label)
        write(root / "train" / wordnet_id / f"{wordnet_id}_boxes.txt", "n.JPEG\t0\t0\t1\t1\n")
        write(root / "val" / "images" / f"val_{n}.png", png(pixels(500 + n)))
        known[pixels(500 + n).tobytes()] = ("validation", label)
        rows.append(f"val_{n}.png\t{wordnet_id}\t0\t0\t62\t62\n")
    write(root / "val" / "val_annotations.txt", "".join(rows))
    return known


def celeba_hq(root: pathlib.Path, names: tuple[str, ...]) -> dict[bytes, tuple[str, list[int], str]]:
    """Four images. Returns pixels -> (split, attributes, original)."""
    originals = ["000005.jpg", "162771.jpg", "182638.jpg", "162770.jpg"]
    splits = ["train", "validation", "test", "train"]
    known, mapping, rows = {}, ["idx       orig_idx     orig_file"], [f"{len(originals)}", " ".join(names)]
    for n, (original, split) in enumerate(zip(originals, splits, strict=True)):
        write(root / "CelebA-HQ-img" / f"{n}.jpg", png(pixels(n)))
        mapping.append(f"{n}          {int(original[:6]) - 1}     {original}")
        values = [(n >> (i % 3)) & 1 for i in range(len(names))]
        rows.append(f"{n}.jpg  " + " ".join("1" if value else "-1" for value in values))
        known[pixels(n).tobytes()] = (split, values, original)
    write(root / "CelebA-HQ-to-CelebA-mapping.txt", "\n".join(mapping) + "\n")
    write(root / "CelebAMask-HQ-attribute-anno.txt", "\n".join(rows) + "\n")
    return known


def cub(root: pathlib.Path) -> dict[bytes, tuple[str, int, list[int]]]:
    """Five birds of two species with three attributes; `attributes.txt` beside the folder, as in the official archive.

    Returns the pixels within the box -> (split, class, attributes).
    """
    birds = root / "CUB_200_2011"
    files = [
        "001.Black_footed/a.jpg",
        "001.Black_footed/b.jpg",
        "002.Laysan/c.jpg",
        "002.Laysan/d.jpg",
        "002.Laysan/e.jpg",
    ]
    write(root / "attributes.txt", "1 has_bill::hooked\n2 has_bill::cone\n3 has_wing::blue\n")
    write(birds / "classes.txt", "1 001.Black_footed\n2 002.Laysan\n")
    tables = {name: [] for name in ("images", "image_class_labels", "bounding_boxes", "train_test_split")}
    rows, known = [], {}
    for n, file in enumerate(files, 1):
        picture = pixels(n, 20, 30)
        write(birds / "images" / file, png(picture))
        label, split = int(file[:3]) - 1, "train" if n % 2 else "test"
        tables["images"].append(f"{n} {file}")
        tables["image_class_labels"].append(f"{n} {label + 1}")
        tables["bounding_boxes"].append(f"{n} 4.0 2.0 12.0 10.0")
        tables["train_test_split"].append(f"{n} {int(split == 'train')}")
        attributes = [n >> i & 1 for i in range(3)]
        rows += [f"{n} {i + 1} {value} 3 1.5" + (" 0" if n == 2 else "") for i, value in enumerate(attributes)]
        # A box of 12 x 10 pixels at column 4, row 2: its square starts at row 1.
        known[picture[1:13, 4:16].tobytes()] = (split, label, attributes)
    for name, lines in tables.items():
        write(birds / f"{name}.txt", "\n".join(lines) + "\n")
    write(birds / "attributes" / "image_attribute_labels.txt", "\n".join(rows) + "\n")
    return known


def nmr(root: pathlib.Path, classes: list[str], num_views: int) -> dict[str, dict]:
    """Three training objects, one for validation, one for tests, each with `num_views` cameras.

    The cameras are laid down in DVR's convention: y is up, the camera looks along z, its y points down.
    Returns for each object its class, split, and the cameras' positions and forward axes with z up.
    """
    known = {}
    splits = {"train": [(0, "a"), (1, "b"), (0, "c")], "val": [(1, "d")], "test": [(0, "e")]}
    for wordnet_id in classes:
        for split in splits:
            write(root / wordnet_id / f"softras_{split}.lst", "")
    for split, things in splits.items():
        for label, name in things:
            folder = root / classes[label]
            with open(folder / f"softras_{split}.lst", "a") as file:
                file.write(f"{name}\n")
            matrices, centres = {}, []
            for i in range(num_views):
                write(folder / name / "image" / f"{i:04d}.png", png(pixels(1000 * ord(name) + i, 64, 64)))
                azimuth, altitude = 0.3 + 2 * np.pi * i / num_views, 0.5
                centre = 2.732 * np.array(
                    [np.cos(altitude) * np.cos(azimuth), np.sin(altitude), np.cos(altitude) * np.sin(azimuth)]
                )
                forward = -centre / np.linalg.norm(centre)
                right = np.cross(forward, [0, 1, 0])
                right /= np.linalg.norm(right)
                rotation = np.stack([right, np.cross(forward, right), forward])
                world = np.eye(4)
                world[:3, :3], world[:3, 3] = rotation, -rotation @ centre
                matrices[f"world_mat_{i}"] = world
                matrices[f"camera_mat_{i}"] = np.diag([3.7320508, 3.7320508, 1, 1])
                centres.append([centre[0], -centre[2], centre[1]])
            np.savez(folder / name / "cameras.npz", **matrices)
            known[f"{classes[label]}/{name}"] = {"split": split, "label": label, "centres": np.array(centres)}
    return known
