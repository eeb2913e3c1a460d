import functools

import numpy as np
import pytest
from sklearn.decomposition import PCA

from soda_jax.metrics.disentanglement import boosting, dci, factor_vae_score, pca, pca_per_section, pca_scores
from soda_jax.metrics.disentanglement.factors import draw_varying

SECTIONS = [(0, 5), (5, 8), (8, 14)]
HADAMARD = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
VOTES = {"train_votes": 600, "test_votes": 300}


@pytest.fixture(autouse=True)
def few_rounds_and_votes(monkeypatch):
    monkeypatch.setattr(boosting, "ROUNDS", 10)
    monkeypatch.setattr(pca, "factor_vae_score", functools.partial(factor_vae_score, **VOTES))


def codes(count=300, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 6)) @ rng.normal(size=(6, 14)) + 40.0 * rng.normal(size=14)


@pytest.mark.parametrize("k", [1, 3])
def test_each_section_is_scikit_learns_pca_of_its_block(k):
    train, test = codes()[:200], codes()[200:]
    found = pca_per_section(train, test, SECTIONS, k)
    assert found[0].shape == (200, 3 * k) and found[1].shape == (100, 3 * k)
    for number, (start, stop) in enumerate(SECTIONS):
        reference = PCA(k, svd_solver="full").fit(train[:, start:stop])
        loadings = reference.components_
        signs = np.sign(loadings[np.arange(k), np.abs(loadings).argmax(axis=1)])
        for columns, part in zip(found, (train, test), strict=True):
            expected = reference.transform(part[:, start:stop]) * signs
            np.testing.assert_allclose(columns[:, k * number : k * number + k], expected, atol=1e-9)


def test_only_training_codes_fit_and_units_stay():
    train, test = codes()[:200], codes()[200:]
    first = pca_per_section(train, test, SECTIONS, 1)
    again = pca_per_section(train, test[:1], SECTIONS, 1)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_allclose(first[1][:1], again[1], atol=1e-9)
    np.testing.assert_allclose(first[0].mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(pca_per_section(7 * train, test, SECTIONS, 1)[0], 7 * first[0], rtol=1e-9, atol=1e-9)


def test_directions_without_variance_are_exactly_zero():
    """A collapsed section, and one that varies along one line; rounding errors would pass for codes."""
    rng = np.random.default_rng(0)
    line = rng.normal(size=(50, 1)) * np.array([3.0, 1.0, -2.0]) + 0.1
    train = np.concatenate([np.full((50, 4), 1 / 3, np.float32), line], axis=1)
    columns, _ = pca_per_section(train, train, [(0, 4), (4, 7)], 3)
    assert not columns[:, :3].any() and not columns[:, 4:].any()
    np.testing.assert_allclose(columns[:, 3].std(), line.std(axis=0) @ line.std(axis=0) / np.linalg.norm(line.std(0)))


@pytest.mark.parametrize(
    ("sections", "k", "message"),
    [
        (SECTIONS, 4, "section 5:8 has fewer dimensions than k=4 principal components: take at most 3"),
        (SECTIONS, 0, "k=0"),
        ([], 1, "there are no sections"),
        ([(0, 5), (5, 15)], 1, "section 5:15 of the codes: they have dimensions 0:14"),
        ([(5, 5)], 1, "section 5:5"),
    ],
)
def test_sections_that_do_not_fit(sections, k, message):
    with pytest.raises(ValueError, match=message):
        pca_per_section(codes(), codes(), sections, k)


def test_codes_that_do_not_fit():
    with pytest.raises(ValueError, match="14 columns and test_codes 13"):
        pca_per_section(codes(), codes()[:, 1:], SECTIONS, 1)
    with pytest.raises(ValueError, match="1 training code"):
        pca_per_section(codes()[:1], codes(), SECTIONS, 1)
    with pytest.raises(ValueError, match="not finite"):
        pca_per_section(codes() * np.nan, codes(), SECTIONS, 1)


def rotated(count=900, seed=0):
    """(codes [N, 12], factors [N, 3]): in each section of four dimensions a factor of its own varies most.

    Turned by a Hadamard matrix, each dimension shows it to the same share as the two others, and noise.
    """
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, (3, 4, 5), size=(count, 3))
    scaled = (factors - factors.mean(axis=0)) / factors.std(axis=0)
    parts = []
    for own in range(3):
        others = [other for other in range(3) if other != own]
        noise = 0.1 * rng.normal(size=(count, 1))
        parts.append(np.concatenate([2.0 * scaled[:, [own]], 1.3 * scaled[:, others], noise], axis=1) @ HADAMARD)
    return np.concatenate(parts, axis=1), factors


def split(values, count=600):
    return values[:count], values[count:]


def test_rotated_sections_are_disentangled_by_their_first_component_alone():
    latent, factors = rotated()
    (train, test), (train_factors, test_factors) = split(latent), split(factors)
    sections = [(0, 4), (4, 8), (8, 12)]
    found = pca_scores(train, train_factors, test, test_factors, sections, 1, seeds=(0, 1), jobs=1)
    raw = dci(train, train_factors, test, test_factors, jobs=1)
    scores = found.by_seed()
    assert min(scores["d"]) > 0.97 and min(scores["c"]) > 0.97 and min(scores["i"]) > 0.97
    assert min(scores["factor_vae"]) > 0.99
    assert raw.disentanglement < 0.7
    assert found.importance.shape == (3, 3) and found.columns == 3 and found.pruned == 0
    np.testing.assert_allclose(found.importance, np.eye(3), atol=0.05)


def test_a_draw_is_dci_of_its_rows_and_votes_among_all():
    latent, factors = rotated(240)
    (train, test), (train_factors, test_factors) = split(latent, 160), split(factors, 160)
    sections = [(0, 6), (6, 12)]
    options = {"num_train": 100, "num_test": 500, "jobs": 1, "threshold": 0.1}
    found = pca_scores(train, train_factors, test, test_factors, sections, 1, seeds=(3, 4), **options)
    columns = pca_per_section(train, test, sections, 1)
    assert found.parts[0].test_errors.shape == (80, 3)  # no more than there are
    for seed, part, score in zip((3, 4), found.parts, found.factor_vae, strict=True):
        rows = [
            draw_varying(values, count, np.random.default_rng([seed, number]), replace=True)
            for number, (values, count) in enumerate(((train_factors, 100), (test_factors, 80)))
        ]
        drawn = columns[0][rows[0]], train_factors[rows[0]], columns[1][rows[1]], test_factors[rows[1]]
        np.testing.assert_array_equal(part.importance, dci(*drawn, jobs=1, seed=seed).importance)
        votes = VOTES | {"seed": seed, "threshold": 0.1}
        assert score == factor_vae_score(columns[0], train_factors, columns[1], test_factors, **votes)
    np.testing.assert_allclose(found.importance, (found.parts[0].importance + found.parts[1].importance) / 2)


def test_columns_below_the_threshold_are_counted_and_unread():
    latent, factors = rotated(240)
    latent[:, 8:] *= 1e-3
    data = latent[:160], factors[:160], latent[160:], factors[160:]
    sections = [(0, 4), (4, 8), (8, 12)]
    whole, pruned = (
        pca_scores(*data, sections, 1, seeds=(0,), jobs=1, threshold=threshold) for threshold in (0.0, 0.05)
    )
    assert (whole.pruned, pruned.pruned) == (0, 1)
    assert whole.factor_vae[0] > 0.95 and pruned.factor_vae[0] < 0.75  # the third factor has no column left
    np.testing.assert_array_equal(whole.importance, pruned.importance)


def test_numbers_of_draws():
    data = codes(), np.arange(600).reshape(300, 2) % 3, codes(), np.arange(600).reshape(300, 2) % 3
    for change in ({"seeds": ()}, {"num_train": 0}, {"num_test": 0}):
        with pytest.raises(ValueError, match="give one of each at least"):
            pca_scores(*data, SECTIONS, 1, **change)
    with pytest.raises(ValueError, match="has 1 code"):
        pca_scores(*data, [(0, 14)], 1)
