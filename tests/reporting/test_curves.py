"""Charts: what they show, and that a page can take them in."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from soda_jax.reporting import curves
from soda_jax.reporting.curves import Line


def parse(chart):
    """The chart's elements; fails unless it is well-formed."""
    namespaced = chart.svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)
    return list(ElementTree.fromstring(namespaced).iter())


def texts(chart):
    return [element.text for element in parse(chart) if element.tag == "text"]


def test_page_colours_fonts_and_ids():
    lines = [Line(f"line {n}", [(0, 1.0 + n), (10, 2.0), (20, 3.0)]) for n in range(curves.SERIES)]
    one, two = (curves.draw(title, lines, "step") for title in ("Loss & <more>", "Other"))
    assert not re.search(r"#[0-9a-f]{6}", one.svg) and "font-family" not in one.svg and "<style" not in one.svg
    for number in range(curves.SERIES):
        assert f"var(--series-{number + 1})" in one.svg
    ids = [element.get("id") for chart in (one, two) for element in parse(chart) if element.get("id")]
    assert len(ids) == len(set(ids))
    targets = re.findall(r"url\(#([^)]+)\)", one.svg) + re.findall(r'href="#([^"]+)"', one.svg)
    assert targets and set(targets) <= set(ids)
    assert 'aria-label="Loss &amp; &lt;more>"' in one.svg


def test_labels_and_words():
    chart = curves.draw("Loss", [Line("a", [(50, 0.5), (1500, 0.25)]), Line("b", [(50, 2.0)])], "step")
    assert {"a", "b", "step"} <= set(texts(chart))
    assert chart.text == "a 0.5 at step 50, 0.25 at 1,500; b 2 at step 50."


@pytest.mark.parametrize("points", [[(1, 1.0)], [(1, 0.0), (2, 1.0)], [(1, -1.0), (2, 2.0)], [(1, 3.0), (2, 3.0)]])
def test_logarithmic_charts_of_awkward_values(points):
    assert texts(curves.draw("x", [Line("x", points)], "step", logarithmic=True))


def test_long_curves_are_averaged_not_sampled():
    points = [(step, float(step % 2)) for step in range(10_000)]
    thin = curves.thinned(points)
    assert len(thin) <= curves.POINTS
    assert all(value == pytest.approx(0.5, abs=0.02) for _, value in thin)
    assert curves.thinned(points[:300]) == points[:300]


def test_charts_of_a_run():
    names = [
        "loss",
        "eval/loss",
        "grad_norm",
        "grad_norm/encoder",
        "probe/mean",
        "probe/hue",
        "probe/shape",
        "own/score",
    ]
    titles = [chart.title for chart in curves.charts({name: [(1, 1.0), (2, 0.5)] for name in names})]
    assert titles == [
        "Loss",
        "Online probe, held-out accuracy",
        "Gradient norm",
        "own",
        "Online probe, held-out accuracy by label",
    ]
    use = [f"latent_use/{name}{level}" for name in ("own", "saved", "saved_error") for level in ("", "_t0", "_t3")]
    found = curves.charts({name: [(1, 1.0), (2, 0.5)] for name in use})
    assert [chart.title for chart in found] == [
        "Held-out loss by latent",
        "Share of another latent's loss that is saved",
    ]
    assert {"all", "least noise", "most noise"} <= set(texts(found[1]))
    alone = curves.charts({"probe/mean": [(1, 0.1)], "probe/label": [(1, 0.1)]})
    assert [chart.title for chart in alone] == ["Online probe, held-out accuracy"]
    assert curves.charts({}) == []
