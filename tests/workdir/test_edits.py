"""The file of an edit: what it holds comes back, and anything else is refused in a line."""

import json

import pytest

from soda_jax.workdir import edits
from soda_jax.workdir.edits import StoredEdit

EDIT = StoredEdit("pca1", (-1.0, 2.5), "set", "0-3", ("scale",), 7, 20, 1.5, "a" * 64)


def test_an_edit_comes_back(tmp_path):
    for edit in (EDIT, StoredEdit("pca1", (0.0,))):
        edits.save(edit, tmp_path / "edit.json")
        assert edits.load(tmp_path / "edit.json") == edit
    assert edits.load(tmp_path / "edit.json", "b" * 64).weights == ""  # of no known weights


def test_other_weights_are_refused(tmp_path):
    edits.save(EDIT, tmp_path / "edit.json")
    assert edits.load(tmp_path / "edit.json", "a" * 64) == EDIT
    with pytest.raises(ValueError, match="--edit=.*edit.json is of other weights .aaaaaaaaaaaa. than this model's"):
        edits.load(tmp_path / "edit.json", "b" * 64)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "soda_jax export"},
        {"format_version": "1"},
        {"format_version": 2},
        {"direction": 3},
        {"sigma": []},
        {"sigma": 1.0},
        {"sigma": [1.0, "2"]},
        {"sigma": [float("nan")]},
        {"sigma": [True]},
        {"sigma": [0.0] * 1001},
        {"mode": "jump"},
        {"sections": 3},
        {"hold": "scale"},
        {"hold": [1]},
        {"seed": 1.5},
        {"sampling_steps": 0},
        {"guidance": "much"},
        {"weights": None},
        {"code": "print()"},
    ],
)
def test_other_content_is_refused(tmp_path, change):
    path = tmp_path / "edit.json"
    edits.save(EDIT, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="--edit=.*edit.json is no edit of soda_jax, or damaged"):
        edits.load(path)


def test_no_edit_at_all(tmp_path):
    with pytest.raises(ValueError, match="--edit=.*gone.json cannot be read .No such file"):
        edits.load(tmp_path / "gone.json")
    for content in ("", "{", "[1]", "{}", "[" * 5000, " " * (1 << 17), '"text"'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match="is no edit of soda_jax, or damaged"):
            edits.load(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="--edit='' is empty"):
        edits.load("")
