"""Directions and moves along them, on codes whose statistics and labels are known in closed form."""

import dataclasses
import warnings

import numpy as np
import pytest
from scipy import stats

from soda_jax.latents import directions, finding
from soda_jax.latents.directions import StrengthWarning, hold, measured, move
from soda_jax.latents.pca import fit_pca
from soda_jax.latents.probing import LabelProbe, fit_probe

RNG = np.random.default_rng(0)
WIDTH, SECTIONS = 12, 3
SCALES = np.geomspace(0.1, 10, WIDTH)
CODES = RNG.standard_normal((2000, WIDTH)) * SCALES + np.arange(WIDTH)


def direction(vector=None, **changes):
    vector = RNG.standard_normal(WIDTH) if vector is None else vector
    return measured(vector, CODES, **({"name": "d", "kind": "test", "num_sections": SECTIONS} | changes))


def test_a_direction_measures_the_codes_along_it():
    vector = np.arange(1.0, WIDTH + 1)
    line = direction(vector)
    projection = CODES @ (vector / np.linalg.norm(vector))
    assert (line.mean, line.std) == pytest.approx((projection.mean(), projection.std(ddof=1)))
    low, high = np.percentile(projection, (0.1, 99.9))
    assert line.mean + line.low * line.std == pytest.approx(low)
    assert line.mean + line.high * line.std == pytest.approx(high)
    np.testing.assert_allclose(line.position(CODES), (projection - projection.mean()) / projection.std(ddof=1))
    assert "whole latent" in line.describe() and direction(vector, sections="0-1").describe().startswith("d, sections")


def test_add_moves_by_sigma_and_set_moves_to_it():
    line = direction()
    np.testing.assert_allclose(line.position(move(CODES[:9], {line: 0.5})), line.position(CODES[:9]) + 0.5)
    np.testing.assert_allclose(line.position(move(CODES[:9], [(line, -1.5)], mode="set")), -1.5)
    np.testing.assert_array_equal(move(CODES[:9], {line: 0.0}), CODES[:9])


def test_several_directions_are_set_at_once_though_they_are_not_orthogonal():
    lines = [direction(name=str(i)) for i in range(3)]
    moved = move(CODES[:9], {lines[0]: 1.0, lines[1]: -0.5, lines[2]: 0.25}, mode="set")
    for line, sigma in zip(lines, (1.0, -0.5, 0.25), strict=True):
        np.testing.assert_allclose(line.position(moved), sigma)


def test_held_directions_do_not_move():
    line, others = direction(), [direction(name="a"), direction(name="b")]
    moved = move(CODES[:9], {line: 1.0}, held=others)
    np.testing.assert_allclose(line.position(moved), line.position(CODES[:9]) + 1.0)
    for other in others:
        np.testing.assert_allclose(other.position(moved), other.position(CODES[:9]), atol=1e-9)
    _, held = hold(line, others)
    assert held.cosine == pytest.approx({other.name: line.vector @ other.vector for other in others})
    basis = np.linalg.qr(np.stack([other.vector for other in others]).T)[0]
    assert held.remaining == pytest.approx(np.linalg.norm(line.vector - basis @ basis.T @ line.vector))
    assert hold(line, [])[1].remaining == pytest.approx(1.0)


def test_holding_what_is_moved_leaves_nothing():
    line = direction()
    with pytest.raises(ValueError, match=r"direction 'd' has nothing left when e \(cosine \+1.00\) is held"):
        hold(line, [dataclasses.replace(line, name="e")])


def test_a_range_of_sections_moves_alone():
    line = direction(sections="1")
    moved = move(CODES[:9], {line: 0.5})
    np.testing.assert_array_equal(moved[:, :4], CODES[:9, :4])
    np.testing.assert_array_equal(moved[:, 8:], CODES[:9, 8:])
    part = directions.within(direction(), "0-1", CODES)
    assert part.sections == "0-1" and not part.vector[8:].any() and part.name == "d_sections_0-1"
    with pytest.raises(ValueError, match="leave sections out"):
        directions.within(direction(num_sections=0), "0-1", CODES)


def test_beyond_the_data_a_warning_says_so():
    line = direction()
    with pytest.warns(StrengthWarning, match=r"d: edited codes lie at .* sigma, where 99.8% of the real ones lie"):
        move(CODES[:1], {line: 9.0}, mode="set")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        move(CODES[:1], {line: line.high}, mode="set")


@pytest.mark.parametrize(
    ("strengths", "options", "message"),
    [
        ({}, {}, "no direction to move along"),
        ({direction(): np.nan}, {}, "sigma of 'd'=nan: give one finite number"),
        ({direction(): 1.0}, {"mode": "jump"}, "mode='jump': choose one of add, set"),
        ({measured(np.ones(4), CODES[:, :4], name="d", kind="test"): 1.0}, {}, "of another model"),
        ({direction(model="a"): 1.0, direction(name="e", model="b"): 1.0}, {}, "of different models' weights"),
        ([(direction(np.ones(WIDTH)), 1.0)] * 2, {"mode": "set"}, "depend on each other"),
    ],
)
def test_moves_refuse(strengths, options, message):
    with pytest.raises(ValueError, match=message):
        move(CODES[:3], strengths, **options)


@pytest.mark.parametrize(
    ("vector", "codes", "message"),
    [
        (np.zeros(WIDTH), CODES, "is 0; there is nothing to move along"),
        (np.full(WIDTH, np.inf), CODES, "NaN or infinite"),
        (np.ones(WIDTH), CODES[:1], "one image has no spread"),
        (np.ones(WIDTH), np.ones((5, WIDTH)), "do not vary along direction 'd'"),
        (np.ones(3), CODES, "of another model"),
    ],
)
def test_no_direction_can_be_made_of(vector, codes, message):
    with pytest.raises(ValueError, match=message):
        measured(vector, codes, name="d", kind="test")


# Two classes, Gaussian with the same diagonal covariance: the optimal probe is linear, of logit difference
# (mean_1 - mean_0) / variance in the space of z.
SHIFT = SCALES * np.linspace(-1, 1, WIDTH)
LABELS = RNG.integers(0, 2, len(CODES))
GROUPS = CODES + LABELS[:, None] * SHIFT


def test_the_probe_finds_the_optimal_rows():
    probe = fit_probe(GROUPS, LABELS, 2)
    found = (probe.rows[1] - probe.rows[0]) / probe.std
    optimal = SHIFT / SCALES**2
    assert found @ optimal / np.linalg.norm(found) / np.linalg.norm(optimal) > 0.99
    bayes = stats.norm.cdf(np.linalg.norm(SHIFT / SCALES) / 2)
    assert (probe.predict(GROUPS) == LABELS).mean() == pytest.approx(bayes, abs=0.03)
    np.testing.assert_allclose(probe.probabilities(GROUPS).sum(axis=1), 1.0)


@pytest.mark.parametrize("kind", finding.LABEL_KINDS)
def test_a_labels_direction_of_each_kind(kind):
    probe = fit_probe(GROUPS, LABELS, 2)
    line = finding.label_direction(probe, GROUPS, LABELS, name="y", kind=kind)
    w = probe.rows[1] - probe.rows[0]
    means = GROUPS[LABELS == 1].mean(axis=0) - GROUPS[LABELS == 0].mean(axis=0)
    expected = {"standardised": GROUPS.std(axis=0) * w, "gradient": w / GROUPS.std(axis=0), "means": means}[kind]
    np.testing.assert_allclose(line.vector, expected / np.linalg.norm(expected), atol=1e-9)
    # Toward class 1, whichever way it is asked for.
    same = finding.label_direction(probe, GROUPS, LABELS, name="y", target=1, kind=kind)
    np.testing.assert_allclose(same.vector, line.vector, atol=1e-9)
    assert (line.name, same.name) == ("y", "y=1")


def test_the_gradient_is_the_logits():
    probe = fit_probe(GROUPS, LABELS, 2)
    line = finding.label_direction(probe, GROUPS, LABELS, name="y", kind="gradient")

    def logit(z):
        return probe.logits(z) @ np.array([-1.0, 1.0])

    z, step = GROUPS[:1], 1e-4
    numeric = [(logit(z + step * e) - logit(z - step * e))[0] / (2 * step) for e in np.eye(WIDTH)]
    np.testing.assert_allclose(line.vector, numeric / np.linalg.norm(numeric), atol=1e-6)


def test_classes_in_an_order_have_one_direction_and_each_its_own():
    rows = RNG.standard_normal((4, WIDTH))
    probe = LabelProbe(rows, np.zeros(4), np.zeros(WIDTH), np.ones(WIDTH))
    labels = np.arange(len(CODES)) % 4
    line = finding.label_direction(probe, CODES, labels, name="y", kind="gradient")
    # The gradient of the expected class at the code where all classes are equally likely.
    z = np.zeros((1, WIDTH))

    def expected_class(z):
        return probe.probabilities(z) @ np.arange(4)

    numeric = [(expected_class(z + 1e-4 * e) - expected_class(z - 1e-4 * e))[0] for e in np.eye(WIDTH)]
    np.testing.assert_allclose(line.vector, numeric / np.linalg.norm(numeric), atol=1e-6)
    one = finding.label_direction(probe, CODES, labels, name="y", target=2, kind="gradient")
    expected = rows[2] - rows[[0, 1, 3]].mean(axis=0)
    np.testing.assert_allclose(one.vector, expected / np.linalg.norm(expected))


def test_a_class_that_no_code_has_does_not_count():
    labels = np.where(LABELS == 0, 1, 3)
    probe = fit_probe(GROUPS, labels, 5)
    assert set(probe.predict(GROUPS)) == {1, 3}
    line = finding.label_direction(probe, GROUPS, labels, name="y")
    plain = finding.label_direction(fit_probe(GROUPS, LABELS, 2), GROUPS, LABELS, name="y")
    np.testing.assert_allclose(line.vector, plain.vector, atol=1e-6)
    with pytest.raises(ValueError, match="target=0: no code has this class"):
        finding.label_direction(probe, GROUPS, labels, name="y", target=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(len(CODES), int), "all 2000 codes have label 0"),
        (LABELS[:5], "give 2000 integers"),
        (LABELS + 0.5, "give 2000 integers"),
        (LABELS + 1, r"with 2 classes give 0\.\.1"),
    ],
)
def test_no_probe_can_be_fitted_to(labels, message):
    with pytest.raises(ValueError, match=message):
        fit_probe(CODES, labels, 2)


def test_two_groups_of_images():
    line = finding.group_direction(CODES[:10], CODES[10:30], CODES, name="g")
    expected = CODES[10:30].mean(axis=0) - CODES[:10].mean(axis=0)
    np.testing.assert_allclose(line.vector, expected / np.linalg.norm(expected))
    assert line.source == "difference of the means of 20 and 10 images"
    with pytest.raises(ValueError, match="is 0; there is nothing to move along"):
        finding.group_direction(CODES[:10], CODES[:10])


def test_axes():
    line = finding.axis_direction(CODES, 3)
    assert line.vector.tolist() == np.eye(WIDTH)[3].tolist() and line.std == pytest.approx(CODES[:, 3].std(ddof=1))
    with pytest.raises(ValueError, match=r"axis=12: the latent has dimensions 0\.\.11"):
        finding.axis_direction(CODES, 12)


def test_principal_directions_carry_the_components_spread():
    lines = finding.pca_directions(CODES, 3, sections="2", num_sections=SECTIONS, model="m")
    pca = fit_pca(CODES, 3, sections="2", num_sections=SECTIONS)
    np.testing.assert_allclose([line.std for line in lines], pca.std)
    assert [line.name for line in lines] == [f"pca{i}_sections_2" for i in (1, 2, 3)]
    assert lines[0].source == f"{100 * pca.share[0]:.2g}% of the variance" and lines[0].model == "m"


def test_weights_directions_are_those_that_move_the_modulation_most():
    projection = RNG.standard_normal((WIDTH, 40)) * np.linspace(0.1, 3, WIDTH)[:, None]
    lines = finding.weight_directions(projection, CODES, 2, sections="0-1", num_sections=SECTIONS)
    part = projection[:8]
    values, vectors = np.linalg.eigh(part @ part.T)  # of SeFa's A^T A, found another way
    for line, place in zip(lines, (-1, -2), strict=True):
        assert abs(line.vector[:8] @ vectors[:, place]) == pytest.approx(1.0)
        assert not line.vector[8:].any()
    assert np.linalg.norm(lines[0].vector @ projection) == pytest.approx(np.sqrt(values[-1]))
    with pytest.raises(ValueError, match="the projection is of 11 dimensions"):
        finding.weight_directions(projection[:11], CODES, 2)
