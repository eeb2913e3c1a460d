"""Broken files: which example stands in for them, how they are counted and listed, and when it is too much."""

import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image

from soda_jax import data
from soda_jax.data.datasets.bad_files import BadFiles, DatasetGoneError, TooManyBadFilesError
from soda_jax.data.decode import DecodeError

COUNT = 40
BROKEN = (3, 4, 5, 20, 31)
SPEC = data.ViewSpec(source_resolution=8, target_resolution=8, augment_source=False, augment_target=False)


def _colour(number):
    return (5 * number, 255 - 5 * number, 40)


@pytest.fixture
def tree(tmp_path):
    """40 files in two classes; a file's colour is its number, and 5 are broken."""
    root = tmp_path / "images"
    for number in range(COUNT):
        path = root / "train" / ("even", "odd")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10), _colour(number)).save(path)
        if number in BROKEN:
            path.write_bytes(path.read_bytes()[: 20 * (number % 3)])
    return root


def _open(root, **options):
    return data.load_dataset("folder", root, "train", **({"max_bad_share": 0.5} | options))


def _shown(batch):
    """The file numbers that a batch shows."""
    return np.round(batch["target"][:, 4, 4, 0] / 5).astype(int)


def _broken_names(root):
    return sorted(str(root / "train" / ("even", "odd")[n % 2] / f"{n:02d}.png") for n in BROKEN)


def _assert_equal(first, second):
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


def test_broken_files_are_replaced_and_the_rest_is_used(tree, tmp_path):
    listed = tmp_path / "work" / "bad_files.txt"
    dataset = _open(tree, bad_files=listed)
    batches = data.train_batches(dataset, SPEC, batch_size=8, seed=0)
    shown = np.concatenate([_shown(batches[step]) for step in range(5)])
    good = set(range(COUNT)) - set(BROKEN)
    assert set(shown) == good
    labels = np.concatenate([batches[step]["label"] for step in range(5)])
    np.testing.assert_array_equal(labels, shown % 2)  # The replacement brings its own label.
    lines = listed.read_text().splitlines()
    assert sorted(line.split("\t")[0] for line in lines) == _broken_names(tree)
    assert all(len(line.split("\t")) == 2 and line.split("\t")[1] for line in lines)
    assert dataset.bad_files.names() == _broken_names(tree)
    assert dataset.bad_files.summary() == f"5 of 40 files cannot be read; listed in {listed}."


def test_replacements_depend_on_nothing_but_the_example(tree):
    whole = data.train_batches(_open(tree), SPEC, batch_size=8, seed=3)
    expected = [whole[step] for step in range(8)]
    for count in (2, 4):
        parts = [
            data.train_batches(_open(tree), SPEC, batch_size=8, seed=3, process_index=i, process_count=count)
            for i in range(count)
        ]
        for step in (7, 0, 3):  # In another order, and each source knowing only what it met itself.
            joined = [part[step] for part in parts]
            _assert_equal({k: np.concatenate([j[k] for j in joined]) for k in joined[0]}, expected[step])
    resumed = data.train_batches(_open(tree), SPEC, batch_size=8, seed=3)
    for step, batch in zip(range(5, 8), data.iterate(resumed, 5), strict=False):
        _assert_equal(batch, expected[step])
    # A broken file has the same replacement in every epoch and for every seed.
    epochs = [data.train_batches(_open(tree), SPEC, batch_size=40, seed=seed)[0] for seed in (9, 1)]
    np.testing.assert_array_equal(*(np.sort(_shown(epoch)) for epoch in epochs))


def test_workers_change_nothing_and_share_the_list(tree, tmp_path):
    listed = tmp_path / "bad_files.txt"
    dataset = _open(tree, bad_files=listed)
    batches = data.train_batches(dataset, SPEC, batch_size=8, seed=0)
    expected = [data.train_batches(_open(tree), SPEC, batch_size=8, seed=0)[step] for step in range(6)]
    iterator = data.iterate(batches, num_workers=2)
    for batch in expected:
        _assert_equal(next(iterator), batch)
    iterator.close()
    assert dataset.bad_files.names() == _broken_names(tree)  # Found by the workers, read from the list.


def test_too_many_stop_training_also_from_workers(tree, tmp_path):
    listed = tmp_path / "bad_files.txt"
    dataset = _open(tree, bad_files=listed, max_bad_share=0.1)
    batches = data.train_batches(dataset, SPEC, batch_size=8, seed=0)
    with pytest.raises(
        TooManyBadFilesError, match=r"5 of 40 .*12\.5%.*max_bad_share=0\.1.*bad_files\.txt.*max_bad_share"
    ):
        for _ in data.iterate(batches, num_workers=2):
            pass
    assert len(listed.read_text().splitlines()) == 5
    with pytest.raises(TooManyBadFilesError):  # At once, when run again.
        _open(tree, bad_files=listed, max_bad_share=0.1)


def test_share_counts_all_files_not_those_seen(tree):
    batches = data.train_batches(_open(tree, max_bad_share=0.125), SPEC, batch_size=8, seed=0)
    for step in range(10):
        batches[step]
    with pytest.raises(TooManyBadFilesError, match="One is .*png: repair or remove"):
        strict = data.train_batches(_open(tree, max_bad_share=0.0), SPEC, batch_size=40, seed=0)
        strict[0]


def test_a_repaired_or_removed_file_is_taken_off_the_list(tree, tmp_path):
    listed = tmp_path / "bad_files.txt"
    batches = data.train_batches(_open(tree, bad_files=listed), SPEC, batch_size=40, seed=0)
    batches[0]
    names = _broken_names(tree)
    Image.new("RGB", (12, 10)).save(names[0])
    (tmp_path / "gone").mkdir()
    pathlib.Path(names[1]).rename(tmp_path / "gone" / "x.png")
    dataset = _open(tree, bad_files=listed, max_bad_share=3 / 39)
    assert dataset.bad_files.names() == names[2:]
    assert len(listed.read_text().splitlines()) == 3


def test_the_list_of_several_splits_counts_each_apart(tree, tmp_path):
    listed = tmp_path / "bad_files.txt"
    test = tree / "test" / "even" / "0.png"
    test.parent.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (12, 10)).save(test.with_name(f"{number}.png"))
    test.write_bytes(b"")
    train, held_out = (
        data.load_dataset("folder", tree, split, bad_files=listed, max_bad_share=0.3) for split in ("train", "test")
    )
    data.train_batches(train, SPEC, batch_size=40, seed=0)[0]
    list(data.eval_batches(held_out, SPEC, batch_size=4))
    assert train.bad_files.names() == _broken_names(tree)
    assert held_out.bad_files.names() == [str(test)]
    assert len(listed.read_text().splitlines()) == 6


@pytest.mark.parametrize("process_count", [1, 2])
def test_evaluation_leaves_broken_examples_out(tree, process_count):
    batches = [
        batch
        for i in range(process_count)
        for batch in data.eval_batches(_open(tree), SPEC, batch_size=8, process_index=i, process_count=process_count)
    ]
    mask, index, target = (np.concatenate([b[k] for b in batches]) for k in ("mask", "index", "target"))
    dataset = _open(tree)
    numbers = np.array([int(path[-6:-4]) for path in dataset._paths])
    assert len(mask) == COUNT and sorted(index.tolist()) == list(range(COUNT))
    assert sorted(numbers[index[~mask]].tolist()) == sorted(BROKEN)
    for image, place in zip(target[mask], index[mask], strict=True):
        np.testing.assert_array_equal(image[4, 4], _colour(numbers[place]))


def test_a_wholly_broken_split_says_so(tree):
    for path in (tree / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="no image could be read"):
        data.train_batches(_open(tree, max_bad_share=1.0), SPEC, batch_size=2, seed=0)[0]


def test_class_policy_skips_broken_partners(tree):
    spec = data.ViewSpec("class", source_resolution=8, target_resolution=8, augment_source=False, augment_target=False)
    batches = data.train_batches(_open(tree), spec, batch_size=8, seed=0)
    for step in range(10):
        batch = batches[step]
        target = _shown(batch)
        source = np.round(batch["source"][:, 0, 4, 4, 0] / 5).astype(int)
        assert not set(target) & set(BROKEN) and not set(source) & set(BROKEN)
        np.testing.assert_array_equal(target % 2, source % 2)
        np.testing.assert_array_equal(batch["label"], source % 2)
        assert np.all(target != source)


def test_class_policy_draws_another_partner_when_all_first_ones_are_broken(tmp_path):
    """The same draw on another example would choose the broken first file of its class again."""
    for number in range(12):
        path = tmp_path / "train" / str(number % 2) / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10), _colour(number)).save(path)
        if number < 2:
            path.write_bytes(b"")
    spec = data.ViewSpec("class", source_resolution=8, target_resolution=8, augment_source=False, augment_target=False)
    batches = data.train_batches(_open(tmp_path), spec, batch_size=12, seed=0)
    for step in range(5):
        assert _shown(batches[step]).min() >= 2
        _assert_equal(batches[step], batches[step])


def test_a_source_that_keeps_no_list_raises():
    class Broken:
        labels = {}

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {"image": data.decode.EncodedImage(b"", f"example {index}")}

    with pytest.raises(DecodeError, match="example"):
        data.train_batches(Broken(), SPEC, batch_size=2, seed=0)[0]


def test_a_list_without_files_reports_in_memory_and_pickles(tmp_path):
    names = [str(tmp_path / name) for name in ("a.png", "b.png")]
    bad_files = BadFiles(tmp_path, ["a.png", "b.png"], max_share=0.5)
    assert bad_files.summary() == ""
    bad_files.report(DecodeError(names[0], "why"))
    bad_files.report(DecodeError(names[0], "why"))
    copy = pickle.loads(pickle.dumps(bad_files))
    assert copy.names() == names[:1]
    assert copy.summary() == f"1 of 2 files cannot be read; the first is {names[0]}."
    with pytest.raises(TooManyBadFilesError, match="2 of 2 image files"):
        copy.report(DecodeError(names[1], "why"))
    with pytest.raises(ValueError, match=r"max_bad_share=-1"):
        BadFiles("/data", ["a.png"], max_share=-1)


def test_a_folder_that_vanishes_blames_no_file(tree, tmp_path):
    listed = tmp_path / "work" / "bad_files.txt"
    batches = data.train_batches(_open(tree, bad_files=listed), SPEC, batch_size=8, seed=0)
    before = batches[1]
    tree.rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetGoneError, match=f"{tree}/ cannot be read any more; bring it back"):
        batches[2]
    assert not listed.exists() or len(listed.read_text().splitlines()) <= len(BROKEN)
    (tmp_path / "elsewhere").rename(tree)
    _assert_equal(batches[1], before)


def test_a_half_written_line_waits_for_its_end(tmp_path):
    listed = tmp_path / "bad_files.txt"
    bad_files = BadFiles("/data", ["a.png", "b.png"], max_share=1, path=listed)
    listed.write_text("/data/a.png\twhy\n/elsewhere/b.png\twhy\n/data/b.p")
    assert bad_files.names() == ["/data/a.png"]
    with open(listed, "a") as file:
        file.write("ng\twhy\n")
    assert bad_files.names() == ["/data/a.png", "/data/b.png"]


NAMES = [
    "new\nline",
    "tab\there",
    "return\r",
    "\x1b[31mred",
    "back\\slash",
    "\\x0a",
    "\\",
    "\x85next",
    "\udcff\udcfe",
    "a\u2028b",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_list_keeps_every_name(tmp_path, name):
    root, listed = tmp_path / "images", tmp_path / "bad_files.txt"
    folder = root / "train" / f"class {name}"
    folder.mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (8, 8)).save(folder / f"{number}{name}.png")
    broken = folder / f"3{name}.png"
    broken.write_bytes(b"no image")
    for _ in range(3):  # each start reads the list that the one before wrote
        dataset = _open(root, bad_files=listed)
        batch = data.train_batches(dataset, SPEC, batch_size=6, seed=0)[0]
        assert batch["label"].tolist() == [0] * 6
        assert dataset.bad_files.names() == [str(broken)]
        lines = listed.read_bytes().splitlines()
        assert len(lines) == 1 and lines[0].count(b"\t") == 1
        assert not any(byte < 32 and byte != 9 for byte in lines[0])
    assert _open(root, bad_files=listed).bad_files.names() == [str(broken)]
    Image.new("RGB", (8, 8)).save(broken)
    assert _open(root, bad_files=listed).bad_files.names() == [] and listed.read_bytes() == b""


@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_of_a_name_can_be_printed(tmp_path, name, caplog):
    files = BadFiles(tmp_path, [f"{name}.png"] * 4, max_share=0.5)
    files.report(DecodeError(f"{tmp_path}/{name}.png", "a\nreason\udcff"))
    for text in (files.summary(), caplog.records[-1].getMessage()):
        assert text.isprintable() and text.encode()


@pytest.mark.parametrize("kind", ["nothing", "itself"])
def test_links_that_lead_nowhere_stay_listed(tmp_path, kind):
    root, listed = tmp_path / "images", tmp_path / "bad_files.txt"
    (root / "train").mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (8, 8)).save(root / "train" / f"{number}.png")
    link = root / "train" / "link.png"
    link.symlink_to("gone.png" if kind == "nothing" else "link.png")
    for _ in range(2):
        dataset = _open(root, bad_files=listed)
        data.train_batches(dataset, SPEC, batch_size=7, seed=0)[0]
        assert dataset.bad_files.names() == [str(link)] and len(listed.read_text().splitlines()) == 1
    link.unlink()
    assert _open(root, bad_files=listed).bad_files.names() == []
