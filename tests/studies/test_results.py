"""study.json: the table's arithmetic against numpy and scipy, and the verdicts."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from soda_jax.metrics.bootstrap import Estimate
from soda_jax.reporting import study_page
from soda_jax.studies import results
from tests.studies import made

PARAMETERS = {"SODA": 1_000_000, "w/o scale": 900_000}


@pytest.mark.parametrize(
    ("low", "high", "above", "below"),
    [
        (0.1, 0.3, "holds", "does not hold"),
        (-0.3, -0.1, "does not hold", "holds"),
        (-0.1, 0.2, "open", "open"),
        (0.0, 0.0, "open", "open"),
        (-np.inf, np.inf, "open", "open"),
    ],
)
def test_verdicts(low, high, above, below):
    difference = Estimate((low + high) / 2 if np.isfinite(low) else 0.2, low, high, 2, "seeds")
    assert results.verdict(">", difference) == above and results.verdict("<", difference) == below
    assert results.verdict(">", None) == "open"


def test_pairs_are_of_equal_seeds():
    found = results.paired({0: 1.0, 1: 2.0, 3: 9.0}, {1: 1.5, 0: 0.25, 2: 4.0})
    assert found.count == 2 and found.value == pytest.approx(np.mean([0.75, 0.5]))
    assert results.paired({0: 1.0}, {1: 1.0}) is None


def test_the_table_is_what_numpy_makes_of_the_runs_figures(tmp_path, monkeypatch):
    _, _, runs = made.carried_out(tmp_path, monkeypatch)
    record = results.collect(made.STUDY, "cpu", runs, PARAMETERS, "d" * 64)
    by_row = {row["name"]: row for row in record["rows"]}
    values = {
        (row.folder, column): [
            json.loads((tmp_path / row.folder / f"seed{seed}" / "evaluation_00000010.json").read_text())["results"][
                "SODA"
            ][name]["value"]
            for seed in (0, 1)
        ]
        for row in made.STUDY.rows
        for column, name in made.COLUMNS.items()
    }
    half = stats.t.ppf(0.975, 1) / np.sqrt(2)
    for row in made.STUDY.rows:
        for column in made.COLUMNS:
            own, first = np.array(values[row.folder, column]), np.array(values["SODA", column])
            cell = by_row[row.name]["figures"][column]
            assert cell["value"] == pytest.approx(own.mean()) and cell["count"] == 2
            assert cell["high"] - cell["value"] == pytest.approx(half * own.std(ddof=1))
            if row.name != "SODA":
                cell = by_row[row.name]["differences"][column]
                assert cell["value"] == pytest.approx((own - first).mean())
                assert cell["value"] - cell["low"] == pytest.approx(half * (own - first).std(ddof=1))
    probe = np.array(values["SODA", "probe"]) - np.array(values["w_o_scale", "probe"])
    assert record["claims"][0]["difference"]["value"] == pytest.approx(probe.mean())
    assert by_row["w/o scale"]["printed"] == {"probe": 61.5}
    assert by_row["one step"]["parameters"] == 1_000_000  # its source's
    assert by_row["w/o scale"]["difference"] == [["model.modulation.use_scale", "True", "False"]]
    run = record["runs"][0]
    assert run["images"] == 160 and run["git"]["revision"] == "a" * 40 and run["minutes"]["train"] == 1.0
    assert results.write(tmp_path, record) == tmp_path / "study.json"
    assert json.loads((tmp_path / "study.json").read_text()) == record


def test_a_study_that_is_not_finished_has_a_table_too(tmp_path, monkeypatch):
    _, _, runs = made.carried_out(tmp_path, monkeypatch, only={"SODA"})
    record = results.collect(made.STUDY, "cpu", runs, {})
    assert [claim["verdict"] for claim in record["claims"]] == ["open", "open"]
    assert record["rows"][1]["figures"]["probe"] is None and sum(run["done"] for run in record["runs"]) == 2
    study_page.write(tmp_path, record)
    assert "| w/o scale | –; paper 61.5 | – |" in (tmp_path / "study.md").read_text()


def test_one_seed_has_no_interval(tmp_path, monkeypatch):
    _, _, runs = made.carried_out(tmp_path, monkeypatch)
    record = results.collect(made.STUDY, "cpu", [run for run in runs if run.seed == 0], {})
    cell = record["rows"][0]["figures"]["probe"]
    assert cell["count"] == 1 and cell["low"] is None and cell["value"] is not None
    assert {claim["verdict"] for claim in record["claims"]} == {"open"}


def test_figures_that_a_row_lacks_are_named(tmp_path, monkeypatch):
    _, _, runs = made.carried_out(tmp_path, monkeypatch)
    path = tmp_path / "w_o_scale" / "seed0" / "evaluation_00000010.json"
    data = json.loads(path.read_text())
    del data["results"]["SODA"]["reconstruction/psnr"]
    path.write_text(json.dumps(data))
    record = results.collect(made.STUDY, "cpu", runs, {})
    assert record["runs"][1]["missing"] == ["reconstruction/psnr"]
    assert record["rows"][1]["figures"]["psnr"]["count"] == 1


def test_the_page_says_what_the_record_holds(tmp_path, monkeypatch):
    _, _, runs = made.carried_out(tmp_path, monkeypatch)
    record = results.collect(made.STUDY, "cpu", runs, PARAMETERS)
    html, markdown = study_page.write(tmp_path, record)
    page, text = html.read_text(), markdown.read_text()
    probe = record["rows"][1]["figures"]["probe"]
    shown = f"{probe['value'] * 100:.2f} \\[{probe['low'] * 100:.2f}, {probe['high'] * 100:.2f}\\]; paper 61.5"
    assert shown in text and shown.replace("\\", "") in page
    assert "Every run saw 160 images." in text
    assert "Parameters differ: SODA has 1.00M, w/o scale 0.90M." in text
    assert "![Curves of all rows](<curves.png>)" in text and page.count("data:image/png;base64,") == 2
    assert "sampling.num\\_steps: 1" in text and "A note." in page
    claim = record["claims"][0]
    assert f"| **{claim['verdict']}** | Scales help (probe: SODA \\> w/o scale) |" in text
    assert (tmp_path / "grids.png").exists()


def test_given_weights_are_named(tmp_path, monkeypatch):
    _, _, runs = made.carried_out(tmp_path, monkeypatch)
    given = [dataclasses.replace(run, init_from=str(tmp_path / "mine")) for run in runs]
    record = results.collect(made.STUDY, "cpu", given, PARAMETERS)
    _, markdown = study_page.write(tmp_path, record)
    assert "All runs measure the same weights, those of mine." in markdown.read_text()
    assert "images." not in markdown.read_text()


def test_several_studies_can_be_published_in_one_folder(tmp_path, monkeypatch):
    _, _, runs = made.carried_out(tmp_path / "study", monkeypatch)
    record = results.collect(made.STUDY, "cpu", runs, PARAMETERS)
    path = study_page.publish(tmp_path / "study", record, tmp_path / "docs")
    files = {"made.md", "made.json", "made_curves.png", "made_grids.png"}
    assert {file.name for file in (tmp_path / "docs").iterdir()} == files and path.name == "made.md"
    assert "](<made_curves.png>)" in path.read_text() and str(tmp_path) not in path.read_text()
    assert json.loads((tmp_path / "docs" / "made.json").read_text()) == record
