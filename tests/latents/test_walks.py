"""Paths through the latent, ranges of sections, neighbours and principal components, against closed forms."""

import numpy as np
import pytest
from sklearn import decomposition

from soda_jax.latents import sections, walks
from soda_jax.latents.neighbours import nearest
from soda_jax.latents.pca import fit_pca

RNG = np.random.default_rng(0)
CODES = RNG.standard_normal((300, 12)) @ RNG.standard_normal((12, 12)) + RNG.standard_normal(12)


def test_interpolation_goes_straight_and_its_ends_are_the_inputs():
    a, b = CODES[:4], CODES[4:8]
    walk = walks.interpolate(a, b, steps=5)
    assert walk.shape == (4, 5, 12)
    np.testing.assert_array_equal(walk[:, 0], a)
    np.testing.assert_array_equal(walk[:, -1], b)
    np.testing.assert_allclose(walk[:, 1], 0.75 * a + 0.25 * b)


def test_interpolation_passes_every_code():
    a, b, c = CODES[:2], CODES[2:4], CODES[4:6]
    walk = walks.interpolate(a, b, c, steps=5)
    for place, codes in ((0, a), (2, b), (4, c)):
        np.testing.assert_allclose(walk[:, place], codes)
    np.testing.assert_allclose(walk[:, 3], (b + c) / 2)


@pytest.mark.parametrize(
    ("codes", "steps", "message"),
    [
        ((CODES[:2],), 5, "give two arrays or more"),
        ((CODES[:2], CODES[:3]), 5, "give as many of each"),
        ((CODES[:2], CODES[2:4]), 1, "steps=1: give at least 2"),
        ((CODES[0], CODES[1]), 5, r"one latent: codes 0\[None\]"),
        ((CODES[:2], np.full((2, 12), np.nan)), 5, "codes 1 hold NaN"),
    ],
)
def test_interpolation_refuses(codes, steps, message):
    with pytest.raises(ValueError, match=message):
        walks.interpolate(*codes, steps=steps)


def test_truncation_moves_toward_the_mean():
    mean = CODES.mean(axis=0)
    np.testing.assert_allclose(walks.truncate(CODES, mean, 1.0), CODES)
    np.testing.assert_allclose(walks.truncate(CODES, mean, 0.0), np.broadcast_to(mean, CODES.shape))
    np.testing.assert_allclose(walks.truncate(CODES, mean, 0.3), 0.3 * CODES + 0.7 * mean)
    with pytest.raises(ValueError, match=r"truncation=1.5: give 0 .* to 1"):
        walks.truncate(CODES, mean, 1.5)
    with pytest.raises(ValueError, match="of another model"):
        walks.truncate(CODES, mean[:5], 0.5)


def test_sections_of_a_latent():
    assert sections.section_sizes(16, 3).tolist() == [6, 5, 5]
    assert sections.parse_range("0-2", 3) == (0, 2) and sections.parse_range(" 1 ", 3) == (1, 1)
    assert sections.dims_of("1-2", 16, 3).tolist() == [False] * 6 + [True] * 10
    assert sections.dims_of(None, 4, 0).all()
    assert sections.thirds(7) == ("0-2", "3-4", "5-6") and sections.thirds(2) == ("0", "1")


@pytest.mark.parametrize("text", ["3", "2-1", "0-3", "a", "", "0:2", "-1", "1-2-3", None, "0.5"])
def test_sections_that_there_are_not(text):
    with pytest.raises(ValueError, match="sections="):
        sections.parse_range(text, 3)


def test_principal_components_are_scikit_learns():
    reference = decomposition.PCA().fit(CODES)
    pca = fit_pca(CODES)
    np.testing.assert_allclose(pca.mean, reference.mean_)
    np.testing.assert_allclose(pca.std**2, reference.explained_variance_)
    np.testing.assert_allclose(pca.share, reference.explained_variance_ratio_)
    cosines = np.abs((pca.components * reference.components_).sum(axis=1))
    np.testing.assert_allclose(cosines, 1.0)
    np.testing.assert_allclose(np.abs(pca.coordinates(CODES) * pca.std), np.abs(reference.transform(CODES)), atol=1e-9)


def test_principal_components_of_some_sections_are_those_of_these_dimensions():
    pca = fit_pca(CODES, 3, sections="1", num_sections=3)
    reference = decomposition.PCA(3).fit(CODES[:, 4:8])
    assert not pca.components[:, :4].any() and not pca.components[:, 8:].any()
    np.testing.assert_allclose(np.abs(pca.components[:, 4:8]), np.abs(reference.components_), atol=1e-9)
    np.testing.assert_allclose(pca.std**2, reference.explained_variance_)


def test_the_prior_has_the_codes_moments():
    drawn = fit_pca(CODES).sample(200_000, seed=1)
    np.testing.assert_allclose(drawn.mean(axis=0), CODES.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(CODES.T), atol=0.4)
    narrow = fit_pca(CODES).sample(200_000, seed=1, truncation=0.5)
    np.testing.assert_allclose(np.cov(narrow.T), np.cov(CODES.T) / 4, atol=0.1)
    np.testing.assert_allclose(fit_pca(CODES).sample(2, truncation=0.0), np.stack([CODES.mean(axis=0)] * 2))


def test_components_refuse():
    with pytest.raises(ValueError, match="one image has no spread"):
        fit_pca(CODES[:1])
    with pytest.raises(ValueError, match="all codes are the same"):
        fit_pca(np.ones((5, 3)))
    with pytest.raises(ValueError, match=r"num_components=9: 6 codes of these sections have 1\.\.5"):
        fit_pca(CODES[:6], 9)
    with pytest.raises(ValueError, match="count=0"):
        fit_pca(CODES).sample(0)


def test_nearest_codes_by_both_distances():
    rows, distances = nearest(CODES[:5] * 3.0, CODES, 2)
    assert rows[:, 0].tolist() == list(range(5))
    np.testing.assert_allclose(distances[:, 0], 0.0, atol=1e-9)
    rows, distances = nearest(CODES[:5], CODES, 3, metric="euclidean")
    brute = np.linalg.norm(CODES[:5, None] - CODES[None], axis=-1)
    np.testing.assert_array_equal(rows, np.argsort(brute, axis=1)[:, :3])
    with pytest.raises(ValueError, match=r"give 1\.\.300"):
        nearest(CODES[:5], CODES, 301)
    with pytest.raises(ValueError, match="metric='l1'"):
        nearest(CODES[:5], CODES, 1, metric="l1")
