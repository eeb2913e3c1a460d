"""How far the explorer lets an edit go, by what was measured and where real images lie."""

import dataclasses
import xml.etree.ElementTree

import jax
import numpy as np
import pytest

import soda_jax
from soda_jax.evaluation import record
from soda_jax.explorer import reach
from soda_jax.latents.directions import Direction
from soda_jax.metrics.bootstrap import Estimate
from soda_jax.workdir import export as exports
from tests import tiny_exports

MEASURED = {"edits/line/safe_low": -2.0, "edits/line/safe_high": 1.0}
LINE = Direction(np.eye(4)[0], mean=1.0, std=2.0, low=-2.5, high=3.0, name="line", kind="test")


@pytest.mark.parametrize(
    ("own", "strengths", "beyond", "expected"),
    [
        (0.5, {}, False, (-2.5, 3.0)),  # not measured: as far as real images lie
        (0.5, {"line": (-2.0, 1.0)}, False, (-1.5, 1.5)),
        (0.5, {"line": (-9.0, 9.0)}, False, (-2.5, 3.0)),
        (0.5, {"line": (-2.0, 1.0)}, True, (-2.5, 3.0)),
        (0.5, {"line": (0.0, 0.0)}, False, (0.5, 0.5)),
        (-4.0, {"line": (-1.0, 1.0)}, False, (-4.0, -3.0)),  # an image outside goes no further out
        (0.5, {"other": (-1.0, 1.0)}, False, (-2.5, 3.0)),
    ],
)
def test_how_far(own, strengths, beyond, expected):
    found = reach.reach(LINE, own, strengths, beyond=beyond)
    assert (found.low, found.high) == pytest.approx(expected) and found.low <= own <= found.high
    assert found.is_empty == (expected[0] == expected[1])
    assert found.why.endswith(".") or found.why.endswith(").")


def test_strengths_are_those_of_this_checkpoints_evaluation(model):
    assert reach.measured_strengths(model) == {}
    figures = MEASURED | {
        "edits/line/slope": Estimate(0.5, 0.4, 0.6, 8, "images"),
        "edits/other/safe_low": -1.0,  # without its other end
        "edits/section_0/first": 0.1,
    }
    written = {"num_images": {}, "devices": jax.devices()[:1]}
    for weights, expected in (("f" * 64, {}), (model.weights_digest, {"line": (-2.0, 1.0)})):
        path = record.write(
            model.workdir, model.step, {"SODA": figures}, model.config, model="SODA", weights=weights, **written
        )
        assert reach.measured_strengths(model) == expected
    path.write_text("{")
    assert reach.measured_strengths(model) == {}
    path.unlink()
    assert reach.measured_strengths(dataclasses.replace(model, workdir=None)) == {}


def test_an_export_carries_what_was_measured(tmp_path):
    export = tiny_exports.export_of()
    figures = {name: {"value": value, "low": None, "high": None} for name, value in MEASURED.items()}
    about = export.about | {"figures": {"SODA": figures}}
    exports.write(tmp_path / "export", dataclasses.replace(export, about=about), "float32", "card")
    assert reach.measured_strengths(soda_jax.load(tmp_path / "export")) == {"line": (-2.0, 1.0)}


def test_extremes_are_the_farthest_real_images():
    codes = np.zeros((6, 4))
    codes[:, 0] = [5, -3, 1, 9, -7, 2]
    rows, places = reach.extremes(LINE, codes, 2)
    assert rows.tolist() == [4, 1, 0, 3] and places.tolist() == [-4, -2, 2, 4]
    assert len(reach.extremes(LINE, codes[:3], 2)[0]) == 2  # no image at both ends


def test_the_ruler_marks_the_images_own_place():
    found = reach.reach(LINE, 0.5, {"line": (-2.0, 1.0)})
    svg = xml.etree.ElementTree.fromstring(reach.ruler(LINE, 0.5, found, 1.2))
    assert "Own place +0.50 sigma, moved to +1.20" in svg.get("aria-label")
    own = float(svg.find("path").get("d").split()[0].removeprefix("M"))
    ticks = {text.text: float(text.get("x")) for text in svg.findall("text")}
    assert ticks["+0"] < own < ticks["+1"] and own == pytest.approx((ticks["+0"] + ticks["+1"]) / 2, abs=0.2)
    assert float(svg.find("circle").get("cx")) > own
