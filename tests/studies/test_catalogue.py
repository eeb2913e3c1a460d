"""The package's studies: each can be run at each of its sizes, and is fair."""

import pathlib

import pytest

import soda_jax
from soda_jax.config import differences
from soda_jax.studies import catalogue, fairness
from soda_jax.studies.definition import check
from soda_jax.studies.runs import make_runs

OBJECTS = ["--config.data.root=/nowhere"]


@pytest.mark.parametrize("name", catalogue.STUDIES)
def test_every_study_can_be_run_at_every_size(name):
    study = catalogue.find(name)
    check(study)
    assert set(study.sizes) == {"cpu", "gpu", "paper"} and study.claims
    for size in study.sizes.values():
        given = OBJECTS if "renderings" in size.needs else []
        runs = make_runs(study, size, pathlib.Path("nowhere"), given)
        fairness.check(runs)
        assert len(runs) == len(study.rows) * size.seeds and size.seeds >= 2
        assert study.claims_at(size)


def test_the_model_that_comes_along_fits_the_study_of_one_checkpoint():
    study = catalogue.find("sampling")
    runs = make_runs(study, study.sizes["cpu"], pathlib.Path("nowhere"), checkpoint="scenes")
    shipped = soda_jax.load("scenes").config
    assert {tuple(differences(shipped, run.config)) for run in runs} == {()}


def test_the_paper_is_found_where_it_prints_a_row():
    from soda_jax.studies.results import printed

    study = catalogue.find("modulation")
    row = study.row("w/o layer mask")
    assert printed(study, row, study.sizes["cpu"])["d"] == 68.41
    assert printed(study, study.reference, study.sizes["cpu"])["probe"] == 71.63
    study = catalogue.find("representation")
    found = {row.name: printed(study, row, study.sizes["cpu"]).get("probe") for row in study.rows}
    assert found["SODA"] == 72.24 and found["w/o bottleneck"] == 34.2 and found["Uncond"] == 24.5
    assert found["EncDec"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("STUDY = 1", "no function get_study"),
        ("def get_study():\n    return 1", "not int"),
        ("def get_study():\n    return 1 / 0", r"line 2: ZeroDivisionError: division by zero"),
        ("def get_study(:", "SyntaxError"),
    ],
)
def test_a_file_that_defines_no_study_is_explained(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        catalogue.find(str(path))


def test_a_file_of_a_users_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from tests.studies import made\n\ndef get_study():\n    return made.STUDY\n")
    assert catalogue.find(str(path)).name == "made"
    with pytest.raises(ValueError, match=r"--study=modulatoin: give a file, or one of .*did you mean modulation"):
        catalogue.find("modulatoin")


def test_every_claim_has_its_place_in_the_paper():
    for study, text, tested, where in catalogue.claim_rows():
        assert text and where and ("<" in tested or ">" in tested), study
