import json
import subprocess
import sys

import numpy as np
import pytest

from soda_jax.tools import dci


def run(*flags):
    done = subprocess.run([sys.executable, "-m", "soda_jax.tools.dci", *flags], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def files(tmp_path):
    factors = np.random.default_rng(0).integers(0, (2, 3), size=(300, 2))
    np.save(tmp_path / "z.npy", np.concatenate([factors, factors], axis=1) * 1.0)
    np.save(tmp_path / "f.npy", factors)
    return tmp_path


def test_measures_two_matrices(files):
    flags = (f"--codes={files}/z.npy", f"--factors={files}/f.npy", "--names=hue,size", "--sections=2")
    done = run(*flags, f"--json={files}/out.json", f"--importance={files}/importance")
    assert done.returncode == 0, done.stderr
    report = json.loads((files / "out.json").read_text())
    assert report["count"] == {"train": 200, "test": 100}
    results = report["results"]
    assert results["disentanglement/d"] == pytest.approx(1.0, abs=1e-6)
    assert results["disentanglement/c"] == pytest.approx(0.5, abs=0.05)  # two of four codes
    assert results["disentanglement/section_0/c"] == pytest.approx(1.0, abs=1e-6)
    assert results["disentanglement/i/hue"] == {"value": 1.0, "low": 1.0, "high": 1.0, "count": 100, "over": "images"}
    importance = np.load(files / "importance")
    np.testing.assert_allclose(importance[:2] + importance[2:], np.eye(2), atol=1e-6)
    for words in ("disentanglement (D)", "FactorVAE", "hue", "0-1", "2-3", "200 training and 100 test examples"):
        assert words in done.stdout


def test_principal_components_of_sections_beside_all_codes(tmp_path):
    """Two sections of three codes, each a factor along a line; a third that hardly varies."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, (2, 3), size=(240, 2))
    lines = [factors[:, [k]] * np.array([1.0, -2.0, 2.0]) + 0.05 * rng.normal(size=(240, 3)) for k in range(2)]
    faint = 1e-3 * rng.normal(size=(240, 3))
    np.savez(tmp_path / "x.npz", codes=np.concatenate([*lines, faint], axis=1), factors=factors)
    flags = (f"--codes={tmp_path}/x.npz", f"--factors={tmp_path}/x.npz", "--sections=3", "--pca_per_section=1,2")
    done = run(*flags, "--seeds=2", "--factor_vae_threshold=0.05", "--jobs=1", f"--json={tmp_path}/out.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    one, two = report["pca"]
    assert (one["k"], one["columns"], one["pruned"]) == (1, 3, 1)
    assert (two["k"], two["columns"]) == (2, 6) and two["pruned"] >= 2
    assert report["settings"]["seeds"] == 2 and report["settings"]["factor_vae_threshold"] == 0.05
    for name in ("d", "c", "i", "factor_vae"):
        assert len(one[name]["seeds"]) == 2 and one[name]["mean"] == pytest.approx(1.0, abs=0.01)
        assert report["results"][f"disentanglement/pca1/{name}"]["value"] == pytest.approx(one[name]["mean"])
    np.testing.assert_allclose(one["importance"], [[1, 0], [0, 1], [0, 0]], atol=0.01)
    rows = [line.split() for line in done.stdout.splitlines()]
    whole = next(row for row in rows if row[:3] == ["all", "9", "fast"])
    assert float(whole[3]) == pytest.approx(report["results"]["disentanglement/d"], abs=1e-4)
    assert ["PCA,", "1", "a", "section", "3", "fast", "1.0000", "+-", "0.0000"] in [row[:9] for row in rows]
    assert "standard deviation is below 0.05: 1 of 3 and" in done.stdout


@pytest.mark.parametrize(
    ("items", "sections", "message"),
    [
        (["1"], [], "--pca_per_section=1 needs the sections"),
        (["1", "x"], [(0, 2)], "--pca_per_section=1,x: give numbers of components"),
        (["0"], [(0, 2)], "--pca_per_section=0: give numbers"),
        (["1", "3"], [(0, 4), (4, 6)], "a section has fewer than 3 codes; leave 3 out"),
        (["1"], [(0, 4)], "1 of one section is one column"),
    ],
)
def test_components_that_cannot_be_measured(items, sections, message):
    with pytest.raises(ValueError, match=message):
        dci._components(items, sections)
    assert dci._components([], sections) == []


def test_test_files_are_used(files):
    train, test = np.load(files / "f.npy")[:200], np.load(files / "f.npy")[200:]
    np.savez(files / "train.npz", codes=train, factors=train)
    np.savez(files / "test.npz", codes=test, factors=(test + 1) % (2, 3))
    done = run(
        *(f"--{name}={files}/train.npz" for name in ("codes", "factors")),
        *(f"--test_{name}={files}/test.npz" for name in ("codes", "factors")),
        f"--json={files}/out.json",
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((files / "out.json").read_text())["results"]
    assert results["disentanglement/i_train"] == 1.0
    assert results["disentanglement/i"]["value"] == 0.0


def test_user_errors_end_in_one_line(files):
    done = run(f"--codes={files}/missing.npy", f"--factors={files}/f.npy")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == f"error: --codes={files}/missing.npy: there is no such file"


def test_arrays_of_an_npz(tmp_path):
    path, values = f"{tmp_path}/x.npz", np.arange(6.0).reshape(3, 2)
    np.savez(path, codes=values, test_codes=values + 1, other=values + 2)
    np.testing.assert_array_equal(dci.load_matrix(path, "codes"), values)
    np.testing.assert_array_equal(dci.load_matrix(path, "test_codes"), values + 1)
    np.testing.assert_array_equal(dci.load_matrix(f"{path}:other", "codes"), values + 2)
    with pytest.raises(ValueError, match="the file's arrays are codes, test_codes, other; name one as"):
        dci.load_matrix(path, "factors")
    np.savez(path, only=values)
    np.testing.assert_array_equal(dci.load_matrix(path, "factors"), values)


@pytest.mark.parametrize("content", [b"", b"words", b"\x93NUMPY\x01\x00"])
def test_files_of_another_format(tmp_path, content):
    (tmp_path / "z.npy").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as .npy or .npz"):
        dci.load_matrix(f"{tmp_path}/z.npy", "codes")


def test_objects_are_not_loaded(tmp_path):
    np.save(tmp_path / "z.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(ValueError, match="of numbers"):
        dci.load_matrix(f"{tmp_path}/z.npy", "codes")


def test_sections():
    assert dci.parse_sections("", 8) == []
    assert dci.parse_sections("4", 8) == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert dci.parse_sections("0:3,3:8", 8) == [(0, 3), (3, 8)]
    with pytest.raises(ValueError, match="does not divide the 8 codes"):
        dci.parse_sections("3", 8)
    for text in ("a", "1,2", "0:2:4", "0:"):
        with pytest.raises(ValueError, match="give a number of equal sections"):
            dci.parse_sections(text, 8)


def test_split_leaves_no_row_on_both_sides():
    rows = np.arange(30)[:, None]
    train, _, test, _ = dci.split(rows, rows, 12, 100, 0)
    assert (len(train), len(test)) == (12, 10)
    assert not set(train[:, 0]) & set(test[:, 0])
    with pytest.raises(ValueError, match="30 codes and 29 factors"):
        dci.split(rows, rows[1:], 12, 100, 0)
    with pytest.raises(ValueError, match="at least 3"):
        dci.split(rows[:2], rows[:2], 12, 100, 0)


def test_places_for_the_figures_are_made_or_refused_before_the_work(files, monkeypatch):
    flags = (f"--codes={files}/z.npy", f"--factors={files}/f.npy")
    done = run(*flags, f"--json={files}/new/folder/out.json", f"--importance={files}/other/importance.npy")
    assert done.returncode == 0, done.stderr
    assert (files / "new" / "folder" / "out.json").is_file() and (files / "other" / "importance.npy").is_file()
    # The matrices are not even read.
    for name in ("json", "importance"):
        done = run("--codes=missing.npy", "--factors=missing.npy", f"--{name}={files}/z.npy/out")
        assert (done.returncode, done.stdout) == (1, "")
        assert f"error: --{name}={files}/z.npy/out: the folder {files}/z.npy cannot be made" in done.stderr


def test_codes_beyond_float32_and_rare_factors(files):
    codes, factors = np.load(files / "z.npy"), np.load(files / "f.npy")
    np.save(files / "huge.npy", codes * 1e300)
    done = run(f"--codes={files}/huge.npy", f"--factors={files}/f.npy")
    assert done.returncode == 1 and "huge.npy: reach 2e+300" in done.stderr
    np.save(files / "constant.npy", np.concatenate([factors, np.ones((300, 1), int)], axis=1))
    done = run(f"--codes={files}/z.npy", f"--factors={files}/constant.npy", "--names=hue,size,none", "--repeats=2")
    assert done.returncode == 0, done.stderr
    assert "left out, of one value in all 200 training examples: none" in done.stdout
    assert "none " not in done.stdout.split("informativeness of")[1]
