"""The use of the latent on the page: a table by noise level, charts, and a warning where there is none."""

import numpy as np
import pytest

from soda_jax.configs import common
from soda_jax.metrics.latent_use import figures
from soda_jax.reporting import recipes
from soda_jax.reporting.latent_use import latent_use
from tests.reporting import made_runs
from tests.reporting.test_page import made, plain

IMAGES = 200


def found(saved, none=1.0):
    """The figures of losses .4, .3, .2, .1 with another's latent, of which an image's own saves a share."""
    other = np.array([0.4, 0.3, 0.2, 0.1])[:, None] * np.linspace(0.9, 1.1, IMAGES)
    return figures(np.stack([other * (1 - saved), other, other * none], axis=1))


@pytest.fixture(scope="module")
def flat():
    config = common.get_config()
    config.train.num_steps, config.optim.warmup_steps = 3000, 0
    return recipes.flatten(config.to_dict())


def of(figures, flat, step=3000):
    return latent_use({name: [(step, value)] for name, value in figures.items()}, flat)


def test_table(flat):
    used = of(found(0.25, none=0.9), flat)
    rows = {row.label: [cell.value for cell in row.cells] for row in used.table.rows}
    assert rows["t 1 to 250, signal 0.98 to 0.66"] == ["0.3000", "0.4000", "0.3600", "25.0%", "16.7%"]
    assert rows["t 751 to 1,000, signal 0.33 to 0.00"][:3] == ["0.0750", "0.1000", "0.0900"]
    assert list(rows)[-1] == "all noise levels" and rows["all noise levels"][:2] == ["0.1875", "0.2500"]
    assert used.table.rows[0].cells[3].interval == "[25.0%, 25.0%]" and used.warning == ""
    assert "The denoiser uses the latent" in used.table.note and "step 3,000" in used.table.note
    plainly = of(found(0.25), {})  # a run whose config is lost
    assert [row.label for row in plainly.table.rows][:2] == ["noise level 0", "noise level 1"]
    assert latent_use({"eval/loss": [(1, 0.5)]}, flat) is None


def test_warning_by_the_runs_age(flat):
    assert "The denoiser ignores the latent" in of(found(0.0), flat).warning
    young = of(found(0.0), flat, step=100)
    assert young.warning == "" and "The run is young" in young.table.note
    hidden = of(found(0.0, none=0.5), flat | {"diffusion.latent_mask_rate": 1.0})
    assert "config.diffusion.latent_mask_rate=1 hides it" in hidden.warning


def test_page(tmp_path):
    config = common.get_config()
    config.train.num_steps, config.optim.warmup_steps = 3000, 0
    for name, saved in (("healthy", 0.25), ("collapsed", 0.0)):
        folder = tmp_path / name
        made_runs.record(folder, config, (0, 3000))
        made_runs.metrics(folder, *({"step": step, "eval/loss": 0.1} | found(saved) for step in (1500, 3000)))
        parsed, markdown = made(folder)
        for text in (parsed.text, plain(markdown)):
            assert "Use of the latent" in text and "signal 0.98 to 0.66" in text
            assert ("The denoiser ignores the latent" in text) == (name == "collapsed")
        assert "Held-out loss by latent" in parsed.text and "latent use/saved" in plain(markdown)
        assert (parsed.text.index("ignores the latent") < parsed.text.index("Results")) if saved == 0 else True
