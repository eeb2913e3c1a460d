"""Scores of edits on linear models, where all of them have closed forms."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from soda_jax.latents import scores
from soda_jax.latents.directions import measured, move
from soda_jax.latents.finding import label_direction, pca_directions
from soda_jax.latents.probing import fit_probe

pytestmark = pytest.mark.filterwarnings("ignore::soda_jax.latents.directions.StrengthWarning")
SIGMAS = (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0)
RNG = np.random.default_rng(0)
CODES = RNG.standard_normal((400, 6)) @ RNG.standard_normal((6, 6)) + RNG.standard_normal(6)
Z = CODES[:20]
DECODER = RNG.standard_normal((6, 6))  # the image of z is z @ DECODER, and its code image @ inverse


def through(codes, encoder):
    """Decoded and encoded again."""
    return codes @ DECODER @ encoder


def edited(direction, encoder):
    """(codes before [N, 1, d], after [N, S, d])."""
    moved = np.stack([move(Z, {direction: sigma}) for sigma in SIGMAS], axis=1)
    return through(Z, encoder)[:, None], through(moved, encoder)


@pytest.mark.parametrize("sections", [None, "0", "1-2"])
def test_an_inverse_encoder_is_exact(sections):
    for direction in pca_directions(CODES, 2, sections=sections, num_sections=3):
        before, after = edited(direction, np.linalg.inv(DECODER))
        shifts = scores.realised(direction, before, after)
        np.testing.assert_allclose(shifts, np.broadcast_to(SIGMAS, shifts.shape), atol=1e-8)
        np.testing.assert_allclose(scores.slope(SIGMAS, shifts), 1.0)
        np.testing.assert_allclose(scores.ratios(SIGMAS, shifts), 1.0)
        np.testing.assert_allclose(scores.spearman(SIGMAS, shifts), 1.0)
        assert scores.leaks(direction) == (sections is not None)
        leakages = None
        if sections is not None:
            leakages = scores.leakage_of(scores.shift_squares(direction, before, after, CODES.std(0)).swapaxes(0, 1))
            np.testing.assert_allclose(leakages, 0.0, atol=1e-8)
            np.testing.assert_allclose(scores.leakage(direction, before, after), 0.0, atol=1e-8)
        safe = scores.safe_range(SIGMAS, shifts.mean(0), leakages, least_share=0.999, most_leakage=1e-6)
        assert safe == (-3.0, 3.0)


def test_slope_is_least_squares_through_the_origin():
    shifts = RNG.standard_normal((20, 6))
    asked = np.tile(SIGMAS, 20)
    expected = np.linalg.lstsq(asked[:, None], shifts.ravel(), rcond=None)[0][0]
    np.testing.assert_allclose(scores.slope(SIGMAS, shifts), expected)
    np.testing.assert_allclose(scores.slope(asked, shifts.ravel()), expected)
    np.testing.assert_allclose(scores.slope(SIGMAS, np.stack([shifts, 2 * shifts])), [expected, 2 * expected])
    np.testing.assert_allclose(scores.ratios(SIGMAS, shifts), (shifts / SIGMAS).mean(0))


def test_rank_correlation_is_scipys_with_the_unedited_image():
    shifts = RNG.standard_normal((5, 6))
    shifts[1, :2] = shifts[1, 2]  # ties
    expected = [spearmanr([*SIGMAS, 0.0], [*row, 0.0]).statistic for row in shifts]
    np.testing.assert_allclose(scores.spearman(SIGMAS, shifts), expected)
    assert scores.spearman(SIGMAS, np.zeros((1, 6))) == [0.0]


def test_leakage_of_a_known_share():
    """The encoder copies half of each dimension of section 0 into section 2, whose codes spread twice as far."""
    codes = np.random.default_rng(1).standard_normal((1000, 6))
    codes = codes / codes.std(0) * [1, 1, 1, 1, 2, 2]
    direction = pca_directions(codes, 1, sections="0", num_sections=3)[0]
    before = codes[:30, None]
    after = np.stack([move(codes[:30], {direction: sigma}) for sigma in (-1.0, 1.0)], axis=1)
    after[..., 4:] += 0.5 * (after - before)[..., :2]
    # Sections 1 and 2 are untouched: section 1 moves by 0, section 2 by a quarter of its unit, so 1/4 * sqrt(1/2).
    expected = 0.25 * np.sqrt(0.5)
    np.testing.assert_allclose(scores.leakage(direction, before, after, codes.std(0)), expected)
    np.testing.assert_allclose(scores.leakage(direction, before, after), 2 * expected)  # without a unit
    squares = scores.shift_squares(direction, before, after, codes.std(0))
    assert squares.shape == (30, 2, 2)
    np.testing.assert_allclose(scores.leakage_of(squares.swapaxes(0, 1)), [expected, expected])


def test_leakage_where_nothing_moves_or_all_of_it_leaks():
    assert scores.leakage_of(np.zeros((4, 2))) == 0
    assert scores.leakage_of(np.array([[0.0, 1.0]])) == np.inf
    whole = measured(np.eye(6)[0], CODES, name="whole", kind="axis")
    with pytest.raises(ValueError, match="'whole' moves the whole latent: nothing is left to leak into"):
        scores.leakage(whole, Z, Z)
    constant = CODES * [1, 1, 1, 1, 1, 0]
    direction = pca_directions(constant, 1, sections="0", num_sections=3)[0]
    assert scores.leakage(direction, Z, Z + [1, 0, 0, 0, 0, 9], constant.std(0)) == 0  # where no real code varies


@pytest.mark.parametrize(
    ("shifts", "leakages", "expected"),
    [
        ([-3, -2, -1, 1, 2, 3], None, (-3, 3)),
        ([-3, -2, -1, 1, 0.9, 3], None, (-3, 1)),  # no longer grows
        ([-1.4, -1.2, -1, 0.6, 1.1, 1.4], None, (-2, 2)),  # less than half of what was asked
        ([3, 2, 1, -1, -2, -3], None, (0, 0)),  # the wrong way
        ([-3, -2, -1, 1, 2, 3], [0, 0.1, 0, 0, 0.6, 0], (-3, 1)),
        ([-3, -2, -1, 1, 2, 3], [0, 0, np.inf, np.nan, 0, 0], (0, 0)),
    ],
)
def test_safe_range_by_hand(shifts, leakages, expected):
    assert scores.safe_range(SIGMAS, np.array(shifts, float), leakages) == expected
    order = [4, 0, 2, 5, 1, 3]
    mixed = None if leakages is None else np.array(leakages)[order]
    assert scores.safe_range(np.array(SIGMAS)[order], np.array(shifts, float)[order], mixed) == expected


def test_safe_range_of_one_side():
    assert scores.safe_range((1.0, 2.0), np.array([1.0, 2.0])) == (0.0, 2.0)


def labels_of(codes):
    return {"a": (codes[:, 0] > 0).astype(int), "b": np.digitize(codes[:, 3], [-0.5, 0.5])}


def test_response_and_dependency_by_the_probes_rows():
    codes = np.random.default_rng(2).standard_normal((600, 6))
    found = labels_of(codes)
    probes = {name: fit_probe(codes, labels, int(labels.max()) + 1) for name, labels in found.items()}
    direction = label_direction(probes["a"], codes, found["a"], name="a")
    before, after = codes[:10, None], np.stack([move(codes[:10], {direction: s}) for s in (-1.0, 1.0)], axis=1)
    # A linear logit moves by its gradient along the step.
    step = direction.std * direction.vector / probes["a"].std
    gradient = probes["a"].rows[1] - probes["a"].rows[0]
    spread = ((codes - probes["a"].mean) / probes["a"].std @ gradient).std()
    np.testing.assert_allclose(
        scores.response(probes["a"], before, after, codes), np.tile([-1, 1], (10, 1)) * (step @ gradient) / spread
    )
    centred = probes["b"].rows - probes["b"].rows.mean(0)
    spreads = ((codes - probes["b"].mean) / probes["b"].std @ centred.T).std(0)
    change = np.abs(centred @ (direction.std * direction.vector / probes["b"].std)) / spreads
    got = scores.dependency({"b": probes["b"]}, before, after, codes)
    np.testing.assert_allclose(got, np.full((10, 2, 1), change.mean()))
    assert scores.response(probes["a"], before, after, codes)[0, 1] > 10 * got[0, 1, 0]
    np.testing.assert_allclose(scores.dependency(probes, before, before, codes), 0)


def test_a_response_toward_one_class():
    codes = np.random.default_rng(3).standard_normal((600, 6))
    labels = labels_of(codes)["b"]
    probe = fit_probe(codes, labels, 4)  # of the last class there is no code
    toward, away = (label_direction(probe, codes, labels, name="b", target=target) for target in (2, 0))
    moved = [move(codes[:10], {direction: 1.0}) for direction in (toward, away)]
    assert (scores.response(probe, codes[:10], moved[0], codes, target=2) > 0.5).all()
    assert (scores.response(probe, codes[:10], moved[1], codes, target=2) < -0.2).all()
    assert np.isfinite(scores.dependency({"b": probe}, codes[:10], moved[0], codes)).all()


def test_strengths_that_are_no_edits():
    with pytest.raises(ValueError, match="one of 0 is no edit"):
        scores.ratios((0.0, 1.0), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="not all of them 0"):
        scores.slope((0.0,), np.zeros((2, 1)))
    assert scores.slope((0.0, 1.0), np.array([0.0, 0.5])) == 0.5
