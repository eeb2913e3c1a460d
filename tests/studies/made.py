"""A small study for tests, and what its runs leave behind, by `stand_in.py`."""

import dataclasses
import json
import pathlib
import sys

from soda_jax.studies import folder as folders
from soda_jax.studies.definition import Claim, Row, Size, Study
from soda_jax.studies.running import Runner
from soda_jax.studies.runs import make_runs

PROGRAM = (sys.executable, str(pathlib.Path(__file__).with_name("stand_in.py")))
COLUMNS = {"probe": "linear_probe/mean", "psnr": "reconstruction/psnr"}
FIELDS = {"train.num_steps": 10, "train.batch_size": 16}
STUDY = Study(
    name="made",
    title="A made study",
    where="Table 0",
    rows=(
        Row("SODA"),
        Row("w/o scale", "w/o scale modulation", printed={"probe": 61.5}),
        Row("one step", fields={"sampling.num_steps": 1}, checkpoint_of="SODA"),
    ),
    claims=(
        Claim("Scales help", "SODA", ">", "w/o scale", "probe", "Table 0"),
        Claim("Few steps suffice", "one step", "<", "SODA", "psnr", "G.4"),
    ),
    sizes={"cpu": Size("quickstart", COLUMNS, FIELDS, seeds=2)},
    notes=("A note.",),
)


def changed(fields=None, **changes):
    """The study with other values of its size's fields, or other attributes."""
    size = STUDY.sizes["cpu"]
    return dataclasses.replace(
        STUDY, sizes={"cpu": dataclasses.replace(size, fields=FIELDS | (fields or {}))}, **changes
    )


def runs(place, study=STUDY, **options):
    return make_runs(study, study.size("cpu"), place, **options)


def carried_out(place, monkeypatch, study=STUDY, only=None, **options):
    """(runner, outcome, runs): the study's runs, or those of the rows in `only`, by the stand-in."""
    monkeypatch.setenv("STAND_IN_CALLS", str(place / "calls"))
    place.mkdir(exist_ok=True)
    made = runs(place, study)
    folders.open_folder(place, study, "cpu", made, throw_away=False)
    chosen = [run for run in made if only is None or run.row.name in only]
    runner = Runner(place, chosen, program=PROGRAM, **({"tell": lambda line: None} | options))
    return runner, runner.run(), made


def calls(place):
    """What the stand-in was asked: [folder of the row, seed, mode]."""
    path = place / "calls"
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
