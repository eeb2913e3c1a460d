"""The figures of how much the latent is used, and what is made of them."""

import numpy as np
import pytest

from soda_jax.metrics import latent_use
from soda_jax.metrics.latent_use import IGNORED, UNCLEAR, USED, YOUNG, figures, settled_at, verdict


def losses(saved, images=400, spread=0.05, seed=0, none=1.0):
    """[4, 3, images] whose own latents save the given shares, and that differ from image to image five times over.

    Without a latent the loss is `none` times that with another's.
    """
    rng = np.random.default_rng(seed)
    other = rng.uniform(1, 5, images) * np.array([1.0, 0.5, 0.25, 0.1])[:, None]
    own = other * (1 - np.asarray(saved)[:, None] + spread * rng.standard_normal((4, images)))
    return np.stack([own, other, none * other], axis=1)


@pytest.mark.parametrize(("steps", "edges"), [(1000, [0, 250, 500, 750, 1000]), (10, [0, 2, 5, 8, 10]), (2, [0, 1, 2])])
def test_levels_share_the_timesteps(steps, edges):
    assert latent_use.level_edges(steps).tolist() == edges


def test_figures_by_hand():
    found = figures([[[1, 2], [2, 4], [3, 3]], [[1, 1], [1, 1], [2, 2]]])
    assert found["latent_use/own_t0"] == 1.5 and found["latent_use/other_t0"] == 3 and found["latent_use/none_t0"] == 3
    assert found["latent_use/saved_t0"] == 0.5 and found["latent_use/saved_error_t0"] == 0
    assert found["latent_use/own"] == 1.25 and found["latent_use/none"] == 2.5
    assert found["latent_use/saved_t1"] == 0 and found["latent_use/saved"] == pytest.approx(1 - 1.25 / 2)
    assert found["latent_use/saved_none_t1"] == 0.5 and found["latent_use/saved_none"] == 0.5
    assert figures(np.ones((4, 3, 1))) == {} and figures(np.ones((4, 3, 0))) == {}


def test_the_standard_error_is_the_bootstraps():
    drawn = losses([0.1, 0.2, 0.3, 0.4])
    found, rng = figures(drawn), np.random.default_rng(1)
    again = [figures(drawn[..., rng.integers(0, 400, 400)]) for _ in range(400)]
    for suffix in ("", "_t0", "_t3"):
        spread = np.std([one[f"latent_use/saved{suffix}"] for one in again])
        assert found[f"latent_use/saved_error{suffix}"] == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize(
    ("saved", "images", "spread", "step", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], 400, 0.05, 2000, USED),
        ([0.1, 0.2, 0.3, 0.4], 400, 0.05, 10, USED),
        ([0.0, 0.0, 0.0, 0.1], 400, 0.05, 2000, USED),  # at one level only
        ([0.0, 0.0, 0.0, 0.0], 400, 0.05, 2000, IGNORED),
        ([0.0, 0.0, 0.0, 0.0], 400, 0.0, 2000, IGNORED),  # the very same
        ([-0.2, -0.1, 0.0, 0.0], 400, 0.05, 2000, IGNORED),  # the own one is worse than another's
        ([0.0, 0.0, 0.0, 0.0], 400, 0.05, 10, YOUNG),
        ([0.05, 0.05, 0.05, 0.05], 16, 0.5, 2000, UNCLEAR),  # too few images to deny it
        ([0.0, 0.0, 0.0, 0.0], 16, 0.5, 2000, UNCLEAR),
    ],
)
def test_verdicts(saved, images, spread, step, expected):
    assert verdict(figures(losses(saved, images, spread)), step, settled=1000) == expected


def test_a_latent_that_only_disturbs_is_ignored_however_noisily():
    """As where training hid it: the right one may seem better than a wrong one by chance, but none is best."""
    for seed in range(20):
        found = figures(losses([0.01] * 4, 64, 0.3, seed, none=0.5))
        assert verdict(found, 2000, 1000) == IGNORED and verdict(found, 10, 1000) == YOUNG


def test_chance_alone_seldom_warns():
    """Of a latent that saves 3 %: never, with few images or many."""
    for images in (16, 64, 256):
        found = [verdict(figures(losses([0.03] * 4, images, 0.2, seed)), 2000, 1000) for seed in range(100)]
        assert found.count(IGNORED) == 0


def test_numbers_that_are_none_say_nothing():
    for broken in (np.full((4, 3, 5), np.nan), np.zeros((4, 3, 5))):
        found = figures(broken)
        assert np.isnan(found["latent_use/saved"]) and verdict(found, 2000, 1000) == UNCLEAR
    assert verdict({}, 2000, 1000) == UNCLEAR


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((500_000, 5000, 0.9999, True), 25_000),
        ((3000, 100, 0.99, True), 1000),
        ((40, 0, 0.99, True), 1000),
        ((3000, 2000, 0.99, True), 3000),
        ((100_000, 0, 0.9999, False), 30_000),  # such an average is of its first weights for a while
    ],
)
def test_runs_are_young_for_a_while(arguments, expected):
    assert settled_at(*arguments) == pytest.approx(expected, abs=1)


def test_words_name_figures_and_remedies():
    found = figures(losses([0.0] * 4))
    ignored = latent_use.in_words(IGNORED, found, 1000, 1.0)
    assert f"{found['latent_use/none']:.4g} with none" in ignored and "save 2%" in ignored
    assert "config.diffusion.latent_mask_rate=1 hides it" in ignored and "docs/troubleshooting.md" in ignored
    assert "latent_mask_rate" not in latent_use.in_words(IGNORED, found, 1000, 0.12)
    assert "from step 1,000 on" in latent_use.in_words(YOUNG, found, 1000, 0.12)
    assert "saves 25.0% of" in latent_use.in_words(USED, figures(losses([0.25] * 4, spread=0.0)), 1000, 0.12)
    assert "little, or too uncertain" in latent_use.in_words(UNCLEAR, found, 1000, 0.12)
