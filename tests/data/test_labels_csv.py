"""labels.csv: what its columns become, and what it may not hold."""

import csv
import pickle

import numpy as np
import pytest
from PIL import Image

from soda_jax import data
from soda_jax.data.datasets.labels_csv import MAX_CLASSES, read_labels

SPLITS = ("train", "validation", "test")


def images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)
    return list(names)


def write(root, *lines, encoding="utf-8"):
    file = root / "labels.csv"
    file.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    return file


def read(root, columns, names=None):
    """Labels of as many images as the columns are long, written by Python's own writer; the images need not exist."""
    count = len(next(iter(columns.values())))
    names = names or [f"{i}.png" for i in range(count)]
    with open(root / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", *columns])
        writer.writerows(zip(names, *columns.values(), strict=True))
    return read_labels(root / "labels.csv", names)


def test_the_folder_has_them_in_every_split(tmp_path):
    """The same class numbers in all splits, each image its own row, whatever the order of the rows."""
    names = images(tmp_path, *(f"{split}/{i}.png" for split in ("train", "val", "test") for i in range(4)))
    truth = {name: (("cat", "dog")[i % 2], i % 3 == 0, i / 8) for i, name in enumerate(names)}
    rows = [f"{name},{animal},{int(hat)},{size}" for name, (animal, hat, size) in reversed(truth.items())]
    write(tmp_path, "file,animal,hat,size", *rows)
    for split in SPLITS:
        dataset = pickle.loads(pickle.dumps(data.load_dataset("folder", tmp_path, split)))
        assert dataset.labels["label"] == data.Labels((2,), ("animal",), ("cat", "dog"))
        assert dataset.labels["attributes"] == data.Labels((2,), ("hat",))
        assert dataset.labels["factors"].names == ("animal", "hat", "size")
        for index in range(len(dataset)):
            animal, hat, size = truth[dataset._paths[index]]
            example = dataset[index]
            assert dataset.labels["label"].classes[example["label"]] == animal
            assert example["attributes"].tolist() == [hat] and example["factors"].dtype == np.int32
            assert example["factors"][:2].tolist() == [example["label"], hat]
        assert dataset.class_ids.tolist() == [dataset[i]["label"] for i in range(len(dataset))]


def test_it_wins_over_folders_and_says_so(tmp_path, caplog):
    names = images(tmp_path, *(f"{('cat', 'dog')[i % 2]}/{i}.png" for i in range(40)))
    write(tmp_path, "file,colour", *(f"{name},{('red', 'green')[i // 20]}" for i, name in enumerate(names)))
    dataset = data.load_dataset("folder", tmp_path, "train")
    assert dataset.labels["label"].classes == ("green", "red")
    assert "labels.csv gives the labels" in caplog.text and "Folders are no classes beside it." in caplog.text


def test_one_in_a_splits_folder_is_not_read_and_named(tmp_path, caplog):
    images(tmp_path, "train/cat/1.png", "val/cat/2.png")
    write(tmp_path / "train", "file,colour", "cat/1.png,red")
    assert data.load_dataset("folder", tmp_path, "train").labels["label"].classes == ("cat",)
    assert "train/labels.csv is not read" in caplog.text


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["0", "1", "1"], [0, 1, 1]),
        (["-1", "1", "1"], [0, 1, 1]),
        (["true", "False", "TRUE"], [1, 0, 1]),
        (["0.0", "1.0", "1"], [0, 1, 1]),
        (["0", "0", "0"], [0, 0, 0]),
        (["1", "1", "1"], [1, 1, 1]),
    ],
)
def test_columns_of_two_values_are_attributes(tmp_path, cells, expected):
    found = read(tmp_path, {"hat": cells})
    assert found.labels == {"attributes": data.Labels((2,), ("hat",))}
    assert found.values["attributes"][:, 0].tolist() == expected


def test_one_column_of_text_is_the_label(tmp_path):
    found = read(tmp_path, {"breed": ["pug", "beagle", "pug"], "tail": ["1", "0", "1"]})
    assert found.labels["label"] == data.Labels((2,), ("breed",), ("beagle", "pug"))
    assert found.values["label"].tolist() == [1, 0, 1] and "factors" not in found.labels


def test_several_columns_of_text_are_factors(tmp_path):
    found = read(tmp_path, {"shape": ["cube", "ball", "cube"], "hue": ["red", "red", "blue"]})
    assert found.labels == {"factors": data.Labels((2, 2), ("shape", "hue"))}
    assert found.values["factors"].tolist() == [[1, 1], [0, 1], [1, 0]]


def test_the_column_called_label_holds_classes_even_if_they_are_numbers(tmp_path):
    found = read(tmp_path, {"Label": ["10", "9", "0", "9"], "room": ["a", "b", "a", "b"]})
    assert found.labels["label"] == data.Labels((3,), ("Label",), ("0", "9", "10"))
    assert found.values["label"].tolist() == [2, 1, 0, 1] and found.labels["factors"].sizes == (3, 2)


def test_few_numbers_are_levels_in_their_order(tmp_path):
    found = read(tmp_path, {"angle": ["-90", "10", "9", "-90"], "scale": ["0.5", "1e0", "1.0", ".75"]})
    assert found.values["factors"].tolist() == [[0, 0], [2, 2], [1, 2], [0, 1]]
    many = [str(i // 5) for i in range(500)]  # a hundred levels of five images each
    assert read(tmp_path, {"frame": many}).labels["factors"].sizes == (100,)


def test_many_numbers_are_bins_of_equal_counts(tmp_path):
    """Numbers that all differ: NumPy's quantiles say the same."""
    numbers = np.random.default_rng(0).lognormal(size=437)
    found = read(tmp_path, {"weight": [repr(float(x)) for x in numbers]})
    bins = found.values["factors"][:, 0]
    assert np.bincount(bins).max() - np.bincount(bins).min() <= 1
    edges = np.quantile(numbers, np.arange(1, 10) / 10, method="inverted_cdf")
    assert np.abs(bins - np.searchsorted(edges, numbers)).max() <= 1
    assert (bins == np.searchsorted(edges, numbers)).mean() > 0.98
    assert "weight (10 of 437 numbers)" in found.described


def test_equal_numbers_share_a_bin(tmp_path):
    numbers = np.concatenate([np.zeros(300), np.arange(1, 101) / 7])
    bins = read(tmp_path, {"rain": [repr(float(x)) for x in numbers]}).values["factors"][:, 0]
    assert set(bins[:300]) == {0} and len(set(bins)) == bins.max() + 1 == 4
    assert (np.diff(bins[300:]) >= 0).all()


def test_a_mark_of_the_byte_order_quotes_and_blank_lines(tmp_path):
    images(tmp_path, "a, b.png", "é.png")
    file = write(tmp_path, "file,kind", '"a, b.png","x ""y"""', "", "./é.png, z ", encoding="utf-8-sig")
    found = read_labels(file, ["a, b.png", "é.png"])
    assert found.labels["label"].classes == ('x "y"', "z")


def test_rows_of_files_that_are_no_images_of_a_split_count_for_nothing(tmp_path):
    images(tmp_path, "train/a.png", "test/b.png", "raw/c.png")
    (tmp_path / "notes.txt").write_text("")
    write(tmp_path, "file,kind", "train/a.png,x", "test/b.png,y", "raw/c.png,z", "notes.txt,w")
    assert data.load_dataset("folder", tmp_path, "train").labels["label"].classes == ("x", "y")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.png,1"], "line 1: the first column is 'a.png', and must be 'file'"),
        (["file;hat", "a.png;1"], "line 1: the first column is 'file;hat'.* commas"),
        ([",file,hat", "0,a.png,1"], "line 1: the first column is ''"),
        ([], "line 1: the first column is ''"),
        (["file", "a.png"], "line 1: there is no column of labels"),
        (["file,hat,hat", "a.png,1,1"], "line 1: column 3 is called 'hat' like another"),
        (["file,", "a.png,1"], "line 1: column 2 has no name"),
        (["file,hat"], "has a header and no rows"),
        (["file,hat", "a.png,1", "b.png"], "line 3 has 1 cells, and the header 2"),
        (["file,hat", "a.png,1,0"], "line 2 has 3 cells, and the header 2"),
        (["file,hat", "a.png,", "b.png,1"], "line 2: 'hat' is empty"),
        (["file,hat", ",1", "b.png,1"], "line 2: 'file' is empty"),
        (["file,hat", "a.png,1", "b.png,0", "./a.png,0"], "line 4: 'a.png' has a row in line 2 too"),
        (["file,hat", "a.png,1", "b.png,0", "c.png,0"], "line 4: there is no file 'c.png'"),
        (["file,hat", "a.png,1", "b.png,0", "d\\\\c.png,0"], "line 4: there is no file .*paths have / between folders"),
        (["file,hat", "a.png,1"], "1 of 2 images have no row: b.png. Add rows"),
        (["file,size", "a.png,1.5", "b.png,nan"], "line 3: 'size' is 'nan', and a number elsewhere"),
        (["file,size", "a.png,1e999", "b.png,2"], "line 2: 'size' is '1e999'"),
        (["file,hat", 'a.png,"1', "b.png,0"], "line 3 is no CSV"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, lines, message):
    names = images(tmp_path, "a.png", "b.png")
    with pytest.raises(ValueError, match=message) as error:
        read_labels(write(tmp_path, *lines), names)
    assert str(tmp_path / "labels.csv") in str(error.value)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_are_refused(tmp_path, encoding):
    file = write(tmp_path, "file,kind", "a.png,café", encoding=encoding)
    with pytest.raises(ValueError, match="labels.csv is not UTF-8 somewhere after line .*save it as CSV in UTF-8"):
        read_labels(file, ["a.png"])


def test_texts_that_are_no_classes(tmp_path):
    with pytest.raises(ValueError, match="'caption' has 30 different texts, one for each image, .*remove the column"):
        read(tmp_path, {"caption": [f"text {i}" for i in range(30)]})
    too_many = [f"text {i // 2}" for i in range(2 * (MAX_CLASSES + 1))]
    with pytest.raises(ValueError, match="has 10,001 different texts, more than 10,000"):
        read(tmp_path, {"label": too_many})


def test_views_of_a_class_and_batches(tmp_path):
    names = images(tmp_path, *(f"train/{i}.png" for i in range(6)))
    write(tmp_path, "file,kind,size", *(f"{name},{'ab'[i % 2]},{i}" for i, name in enumerate(names)))
    dataset = data.load_dataset("folder", tmp_path, "train@0-50%")
    spec = data.ViewSpec(policy="class", source_resolution=8, target_resolution=8)
    batch = data.train_batches(dataset, spec, batch_size=4, seed=0)[0]
    assert batch["label"].shape == (4,) and batch["factors"].shape == (4, 2)


def test_folders_and_labels_tell_fingerprints_apart(tmp_path):
    """What is kept of a folder, as an oracle, must not serve another one, or other labels."""
    found = []
    for folder, cells in (("a", "xyz"), ("b", "xyz"), ("b", "xzy"), ("b", "xzy")):
        names = images(tmp_path / folder, *(f"train/{i}.png" for i in range(3)))
        write(tmp_path / folder, "file,kind", *(f"{name},{cell}" for name, cell in zip(names, cells, strict=True)))
        found.append(data.load_dataset("folder", tmp_path / folder, "train@0-70%").fingerprint)
    assert len(set(found)) == 3 and found[2] == found[3]
