import numpy as np
import pytest

from soda_jax import build
from soda_jax.evaluation.evaluate import evaluate
from soda_jax.evaluation.evaluators import disentanglement
from soda_jax.evaluation.evaluators.disentanglement import Disentanglement, Evaluator, pca_figures
from soda_jax.evaluation.feature_sets import FeatureSet
from soda_jax.evaluation.interface import FeatureContext, FeatureRow
from soda_jax.metrics.bootstrap import Estimate
from soda_jax.metrics.disentanglement import DCI, boosting, dci, mig, pca_scores, sap
from soda_jax.metrics.disentanglement.factors import draw_varying
from tests import tiny, tiny_checkpoint
from tests.evaluation.test_splits import Split

NAMES = ("hue", "size", "shape")


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(boosting, "ROUNDS", 20)


def data(count=450, train=300, seed=0):
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, (2, 3, 4), size=(count, 3))
    codes = factors @ rng.normal(size=(3, 4)) + 0.8 * rng.normal(size=(count, 4))
    codes = np.concatenate([codes, factors[:, :2]], axis=1)
    return codes[:train], factors[:train], codes[train:], factors[train:]


def test_figures_are_the_metrics():
    split = data()
    results = Disentanglement(NAMES).run(*split, sections=[(0, 4), (4, 6)])
    whole, section = dci(*split), dci(split[0][:, 4:], split[1], split[2][:, 4:], split[3])
    assert results["disentanglement/d"] == whole.disentanglement
    assert results["disentanglement/c"] == whole.completeness
    assert results["disentanglement/dci"] == pytest.approx(whole.mean)
    assert results["disentanglement/i_train"] == pytest.approx(whole.train_scores.mean())
    assert results["disentanglement/section_1/d"] == section.disentanglement
    assert results["disentanglement/section_1/dci"] == pytest.approx(section.mean)
    assert results["disentanglement/mig"] == mig(*split[:2])
    assert results["disentanglement/sap"] == pytest.approx(sap(*split))
    assert 1 / 3 < results["disentanglement/factor_vae"] <= 1
    accuracy = results["disentanglement/i"]
    assert isinstance(accuracy, Estimate)
    assert accuracy.value == pytest.approx(whole.informativeness)
    assert accuracy.low < accuracy.value < accuracy.high
    assert (accuracy.count, accuracy.over) == (150, "images")
    by_factor = [results[f"disentanglement/i/{name}"] for name in NAMES]
    np.testing.assert_allclose([e.value for e in by_factor], whole.test_scores)
    # An accuracy's interval is that of a binomial share.
    spread = np.sqrt(by_factor[2].value * (1 - by_factor[2].value) / 150)
    assert by_factor[2].high - by_factor[2].low == pytest.approx(2 * 1.96 * spread, rel=0.2)


def test_repeats_give_intervals_and_leave_the_values():
    split = data()
    plain, repeated = Disentanglement().run(*split), Disentanglement(repeats=2).run(*split)
    assert plain.keys() == repeated.keys()
    for name, value in repeated.items():
        assert float(value) == float(plain[name])
        assert isinstance(value, Estimate), name
        assert 0 <= value.low <= value.value <= value.high <= 1
    assert (repeated["disentanglement/d"].count, repeated["disentanglement/d"].over) == (2, "random halves")
    assert repeated["disentanglement/i"].over == "images"
    assert repeated["disentanglement/d"].low < repeated["disentanglement/d"].high


def test_intervals_of_random_halves_cover_the_spread_between_data_sets(monkeypatch):
    """The interval's width is that of the metric over data sets drawn anew; shown on MIG, the quickest."""
    blank = DCI(np.zeros((2, 2)), 0.0, 0.0, np.zeros(2), np.zeros(2), np.ones((9, 2)), np.ones((9, 2)))
    monkeypatch.setattr(disentanglement, "dci_by_section", lambda *_, **__: [blank])
    for name in ("sap", "factor_vae_score"):
        monkeypatch.setattr(disentanglement, name, lambda *_, **__: 0.0)
    values, reach = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        factors = rng.integers(0, 3, size=(600, 2))
        codes = factors + rng.normal(size=(600, 2))
        estimate = Disentanglement(repeats=8).run(codes, factors, codes, factors)["disentanglement/mig"]
        values.append(estimate.value)
        reach.append((estimate.high - estimate.low) / 2)
    assert np.mean(reach) / (2.36 * np.std(values)) == pytest.approx(1, abs=0.3)  # Student's t of 7 degrees


def test_draws_at_most_the_numbers_asked_for():
    codes_train, factors_train, codes_test, factors_test = data()
    evaluator = Disentanglement(num_train=100, num_test=50)
    results = evaluator.run(codes_train, factors_train, codes_test, factors_test)
    assert results["disentanglement/i"].count == 50
    assert results["disentanglement/d"] != dci(codes_train, factors_train, codes_test, factors_test).disentanglement
    again = evaluator.run(codes_train, factors_train, codes_test, factors_test)
    assert results == again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 0}, "num_train=0"),
        ({"num_test": -1}, "num_test=-1"),
        ({"repeats": 1}, "repeats=1"),
        ({"repeats": -2}, "repeats=-2"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Disentanglement(**options)


def test_bad_data():
    codes_train, factors_train, codes_test, factors_test = data()
    run = Disentanglement(NAMES).run
    with pytest.raises(ValueError, match="there are 3 factors"):
        Disentanglement(("a", "b")).run(codes_train, factors_train, codes_test, factors_test)
    with pytest.raises(ValueError, match="test codes .* empty"):
        run(codes_train, factors_train, codes_test[:0], factors_test[:0])
    with pytest.raises(ValueError, match="299 train codes and 300 factors"):
        run(codes_train[1:], factors_train, codes_test, factors_test)
    with pytest.raises(ValueError, match="one value"):
        run(codes_train, factors_train * [0, 0, 0], codes_test, factors_test)
    with pytest.raises(ValueError, match="not finite"):
        run(codes_train, factors_train, codes_test * np.nan, factors_test)


def test_a_factor_of_one_value_is_left_out(capsys):
    codes_train, factors_train, codes_test, factors_test = data()
    constant = factors_train * [1, 0, 1]
    results, parts = Disentanglement(NAMES).analyse(codes_train, constant, codes_test, factors_test)
    assert "left out, of one value in all 300 training examples: size\n" in capsys.readouterr().out
    others = [0, 2]
    whole = dci(codes_train, factors_train[:, others], codes_test, factors_test[:, others])
    assert results["disentanglement/d"] == whole.disentanglement
    assert "disentanglement/i/size" not in results and "disentanglement/i/shape" in results
    np.testing.assert_array_equal(parts[0].importance[:, others], whole.importance)
    assert parts[0].importance.shape == (6, 3) and not parts[0].importance[:, 1].any()
    kinds = ["discrete", "continuous", "discrete"]
    same = Disentanglement(NAMES, kinds=kinds).run(codes_train, constant, codes_test, factors_test)
    assert same["disentanglement/d"] == whole.disentanglement


@pytest.mark.parametrize("factors", [3, 40])
def test_draws_hold_two_values_of_every_factor(factors):
    """Each factor's rare value is one example's, as of the attributes of birds."""
    labels = np.zeros((200, factors), int)
    labels[np.random.default_rng(0).choice(200, factors, replace=False), range(factors)] = 1
    missed = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows = draw_varying(labels, 100, rng)
        assert len(set(rows.tolist())) == 100 and (np.ptp(labels[rows], axis=0) == 1).all()
        missed += bool((np.ptp(labels[np.random.default_rng(seed).permutation(200)[:100]], axis=0) == 0).any())
    assert missed > 10  # which is what they mend
    few = draw_varying(labels, 2, np.random.default_rng(0))
    assert len(set(few.tolist())) == 2  # as well as it can


def test_rare_values_cost_no_figure():
    codes_train, factors_train, codes_test, factors_test = data()
    rare = np.zeros((300, 1), int)
    rare[7] = 1
    train, test = np.hstack([factors_train, rare]), np.hstack([factors_test, rare[:150]])
    for options in ({"repeats": 4}, {"repeats": 2, "num_train": 20}):
        results = Disentanglement(**options).run(codes_train, train, codes_test, test)
        assert isinstance(results["disentanglement/d"], Estimate) and "disentanglement/i/factor3" in results


def test_a_half_that_fails_costs_no_figure(monkeypatch, capsys):
    split = data()
    plain = Disentanglement().run(*split)
    measured = []

    def failing(*arguments, **options):
        measured.append(1)
        if len(measured) in failures:
            raise RuntimeError("a worker was killed")
        return dci_by_section(*arguments, **options)

    dci_by_section = disentanglement.dci_by_section
    monkeypatch.setattr(disentanglement, "dci_by_section", failing)
    failures = {3}  # the first measures all
    results = Disentanglement(repeats=3).run(*split)
    assert "random half 2 of 3 could not be measured, and is left out: a worker was killed" in capsys.readouterr().out
    assert results["disentanglement/d"].count == 2
    measured.clear()
    failures = {2, 4}
    results = Disentanglement(repeats=3).run(*split)
    assert "no intervals from random halves" in capsys.readouterr().out
    assert results == plain


def test_what_the_quick_metrics_refuse_shows_before_the_trees(monkeypatch):
    monkeypatch.setattr(disentanglement, "dci_by_section", lambda *_, **__: pytest.fail("the trees came first"))
    codes = np.random.default_rng(0).normal(size=(60, 4))
    apart = np.stack([np.arange(60) % 3, np.arange(60)], axis=1)
    with pytest.raises(ValueError, match="share a value"):
        Disentanglement().run(codes, apart, codes, apart)


def test_a_factor_keeps_its_kind_in_halves(monkeypatch):
    """120 values are continuous; half of the examples show at most 75, which would be discrete."""
    seen = []
    monkeypatch.setattr(disentanglement, "mig", lambda *_, kinds: seen.append(tuple(kinds)) or 0.0)
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(150, 4))
    factors = np.stack([np.arange(150) % 120, np.arange(150) % 2], axis=1)
    Disentanglement(repeats=2).run(codes, factors, codes, factors)
    assert seen == [("continuous", "discrete")] * 3


def test_draws_with_replacement_hold_two_values_too():
    labels = np.zeros((50, 5), int)
    labels[np.arange(5) * 7, range(5)] = 1
    repeated = 0
    for seed in range(20):
        rows = draw_varying(labels, 50, np.random.default_rng(seed), replace=True)
        assert len(rows) == 50 and (np.ptp(labels[rows], axis=0) == 1).all()
        repeated += len(set(rows.tolist())) < 45
    assert repeated == 20  # about a third of the rows are missed


def test_principal_components_are_those_of_the_metric():
    split, sections = data(), [(0, 3), (3, 6)]
    found = Disentanglement(NAMES, jobs=1, seed=5).by_pca(*split, sections, 1, seeds=2, threshold=0.1)
    reference = pca_scores(*split, sections, 1, seeds=(5, 6), threshold=0.1, jobs=1)
    assert found.by_seed() == reference.by_seed() and found.pruned == reference.pruned
    np.testing.assert_array_equal(found.importance, reference.importance)
    figures = pca_figures(found)
    assert set(figures) == {f"disentanglement/pca1/{name}" for name in ("d", "c", "i", "factor_vae")}
    estimate, values = figures["disentanglement/pca1/d"], found.by_seed()["d"]
    assert (estimate.value, estimate.count, estimate.over) == (np.mean(values), 2, "random draws")
    assert estimate.low <= min(values) < max(values) <= estimate.high
    alone = pca_figures(Disentanglement(NAMES, jobs=1, seed=5).by_pca(*split, sections, 1, seeds=1, threshold=0.1))
    assert alone["disentanglement/pca1/d"] == values[0]  # no interval of one draw


def test_principal_components_leave_out_a_factor_of_one_value():
    codes_train, factors_train, codes_test, factors_test = data()
    constant = factors_train * [1, 0, 1]
    found = Disentanglement(NAMES, jobs=1).by_pca(codes_train, constant, codes_test, factors_test, [(0, 3), (3, 6)], 2)
    assert found.importance.shape == (4, 3) and not found.importance[:, 1].any() and found.importance[:, 2].any()
    with pytest.raises(ValueError, match="seeds"):
        Disentanglement().by_pca(*data(), [(0, 3), (3, 6)], 1, seeds=0)


def evaluator_of(tmp_path, num_sections, **settings):
    config = tiny.get_config(**{"eval__dci_repeats": 0} | settings)
    return Evaluator(FeatureContext(config.eval, config.probe, None, str(tmp_path), num_sections))


def row_of(kind):
    codes_train, factors_train, codes_test, factors_test = data()
    sets = [
        FeatureSet(codes.astype(np.float32), factors, (2, 3, 4), NAMES)
        for codes, factors in ((codes_train, factors_train), (codes_test, factors_test))
    ]
    return FeatureRow(kind, *sets, lambda: None)


def pca_names(figures):
    return {name.split("/")[1] for name in figures if "/pca" in name}


def test_what_the_evaluator_measures_of_sections(tmp_path, capsys):
    run = evaluator_of(tmp_path, 2, eval__dci_pca=(1, 3), eval__dci_seeds=2, eval__dci_sections=False).run
    trained, untrained, pixels = (run(row_of(kind)) for kind in ("trained", "untrained", "pixels"))
    assert pca_names(trained) == pca_names(untrained) == {"pca1", "pca3"} and not pca_names(pixels)
    assert not [name for name in trained if "section" in name]
    assert trained["disentanglement/pca1/d"].count == 2 and isinstance(untrained["disentanglement/pca1/d"], float)
    assert np.load(tmp_path / "dci_pca1_importance.npy").shape == (2, 3)
    assert np.load(tmp_path / "dci_pca3_importance.npy").shape == (6, 3)
    printed = capsys.readouterr().out
    assert "DCI of each section's first 1 principal components: 2 codes, fast trees, 2 draws" in printed
    assert "the FactorVAE score leaves out 0 codes" in printed


def test_what_the_evaluator_says_of_other_codes(tmp_path, capsys):
    assert not pca_names(evaluator_of(tmp_path, 0, eval__dci_pca=(1, 3)).run(row_of("trained")))
    assert "no DCI of sections' principal components ((1, 3)): the codes have no sections" in capsys.readouterr().out
    assert not pca_names(evaluator_of(tmp_path, 2, eval__dci_pca=()).run(row_of("trained")))
    assert "principal components" not in capsys.readouterr().out
    narrow = evaluator_of(tmp_path, 3, eval__dci_pca=(3,)).run(row_of("trained"))
    assert not pca_names(narrow) and "disentanglement/section_0/d" in narrow
    assert "no DCI of each section's first 3 principal components: a section has 2 codes" in capsys.readouterr().out
    assert not pca_names(evaluator_of(tmp_path, 1, eval__dci_pca=(1,)).run(row_of("trained")))
    assert "one column alone shows no completeness" in capsys.readouterr().out


def test_a_run_has_the_figures_of_its_sections(tmp_path, monkeypatch):
    found = {"train": Split(60, 0), "test": Split(25, 1)}
    monkeypatch.setattr(build, "dataset", lambda config, split: found[split])
    settings = {"eval__baselines": False, "eval__dci_repeats": 0, "eval__dci_pca": (1,), "eval__dci_seeds": 2}
    plain = {"data__augment_source": False, "data__augment_target": False}
    config = tiny.get_config(eval__evaluators=("disentanglement",), **settings, **plain)
    tiny_checkpoint.write(tmp_path, config, 3)
    row = evaluate(config, str(tmp_path))["SODA"]
    for name in ("d", "c", "i", "factor_vae"):
        figure = row[f"disentanglement/pca1/{name}"]
        assert 0 <= figure.low <= figure.value <= figure.high <= 1 and figure.count == 2
    importance = np.load(tmp_path / "dci_pca1_importance.npy")
    assert importance.shape == (3, 2)  # sections by factors
    np.testing.assert_allclose(importance.sum(axis=0), 1, atol=1e-6)
