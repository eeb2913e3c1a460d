import dataclasses

import pytest

from soda_jax.studies.definition import Claim, Printed, Row, check
from tests.studies.made import STUDY, changed


def test_the_made_study_can_be_run():
    check(STUDY)
    assert [row.folder for row in STUDY.rows] == ["SODA", "w_o_scale", "one_step"]
    assert Row("DIP-VAE (II)").folder == "DIP-VAE_II" and Row("***").folder == "row"


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (dataclasses.replace(STUDY, name="no name"), "must consist of letters"),
        (dataclasses.replace(STUDY, rows=STUDY.rows[:1], claims=()), "two rows at least"),
        (dataclasses.replace(STUDY, rows=(*STUDY.rows, Row("w o scale"))), "would share the folder"),
        (dataclasses.replace(STUDY, rows=(*STUDY.rows, Row("plan"))), "the study itself has a folder plan"),
        (dataclasses.replace(STUDY, printed={"probe": Printed("mnist", "dci/d", ())}), "no dataset mnist"),
        (dataclasses.replace(STUDY, rows=(*STUDY.rows, Row("a, b"))), "separates names by commas"),
        (dataclasses.replace(STUDY, rows=(*STUDY.rows, Row("x", "w/o nothing"))), "no variant is called 'w/o nothing'"),
        (dataclasses.replace(STUDY, rows=(*STUDY.rows, Row("x", checkpoint_of="one step"))), "no row that is trained"),
        (dataclasses.replace(STUDY, claims=(Claim("c", "SODA", ">", "VAE", "probe", "T"),)), "'VAE', which is no row"),
        (dataclasses.replace(STUDY, claims=(Claim("c", "SODA", ">", "one step", "fid", "T"),)), "no size has"),
        (dataclasses.replace(STUDY, claims=(Claim("c", "SODA", ">=", "one step", "psnr", "T"),)), "relation '>='"),
        (dataclasses.replace(STUDY, claims=(Claim("c", "SODA", ">", "SODA", "psnr", "T"),)), "with itself"),
        (changed({"model.modulation.use_scale": True}), "which is what the variant is about"),
        (dataclasses.replace(STUDY, sizes={}), "at least one size"),
    ],
)
def test_what_cannot_be_run_is_named(study, message):
    with pytest.raises(ValueError, match=message):
        check(study)


def test_claims_about_columns_that_a_size_lacks_are_left_out():
    size = dataclasses.replace(STUDY.sizes["cpu"], columns={"psnr": "reconstruction/psnr"})
    assert [claim.text for claim in STUDY.claims_at(size)] == ["Few steps suffice"]
    with pytest.raises(ValueError, match="--size=gpu: the study made has no such size; use cpu"):
        STUDY.size("gpu")
