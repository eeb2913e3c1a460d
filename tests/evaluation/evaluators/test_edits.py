"""Edits: exact on a linear model; every part of the evaluator on untrained ones."""

import dataclasses
import math

import numpy as np
import pytest

from soda_jax import config as config_lib
from soda_jax.data.datasets.scenes import FACTOR_NAMES, FACTOR_SIZES
from soda_jax.evaluation import oracle
from soda_jax.evaluation.edit_factors import FactorEdits, change_matrix, mixing, tables
from soda_jax.evaluation.edit_scores import DirectionScores, chosen_directions, label_of, pixel_rmse, section_map
from soda_jax.evaluation.evaluate import evaluate
from soda_jax.evaluation.evaluators import edits
from soda_jax.inference.directions import Found
from soda_jax.inference.engine import Inference
from soda_jax.latents.finding import label_direction, pca_directions
from soda_jax.latents.pca import fit_pca
from soda_jax.latents.probing import fit_probe
from soda_jax.metrics.bootstrap import mean_estimate
from tests import tiny, tiny_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::soda_jax.latents.directions.StrengthWarning")
SIGMAS = (-2.0, -1.0, 1.0, 2.0)
RNG = np.random.default_rng(0)
# Three sections of two dimensions. Whether the first dimension of section k is above 0 is factor k.
CODES = RNG.standard_normal((500, 6)).astype(np.float32)
LABELS = (CODES[:, ::2] > 0).astype(int)
NAMES = ("pose", "shape", "hue")
DECODER = np.linalg.qr(RNG.standard_normal((48, 6)))[0].T  # rows of unit length, orthogonal
Z = CODES[:24]


class Linear:
    """Draws the image z @ DECODER and encodes by its inverse."""

    def draw(self, z):
        return (z @ DECODER).reshape(*z.shape[:2], 4, 4, 3)

    def encode(self, images):
        return images.reshape(*images.shape[:2], -1) @ DECODER.T


class Reader:
    """Reads the factors exactly."""

    names, sizes = NAMES, (2, 2, 2)

    def read(self, images):
        return (images.reshape(len(images), -1) @ DECODER.T[:, ::2] > 0).astype(int)


@pytest.fixture(scope="module")
def found():
    probes = {name: fit_probe(CODES, LABELS[:, i], 2) for i, name in enumerate(NAMES)}
    tie = {"num_sections": 3}
    directions = [*pca_directions(CODES, 3, **tie), *pca_directions(CODES, 2, sections="0-1", **tie)]
    directions += [label_direction(probes[n], CODES, LABELS[:, i], name=n, **tie) for i, n in enumerate(NAMES)]
    by_name = {direction.name: direction for direction in directions}
    return Found(CODES, LABELS, NAMES, (2, 2, 2), probes, by_name, fit_pca(CODES))


def scored(found, drawing):
    return DirectionScores(drawing, found, Z, SIGMAS, pixel_rmse, 0.5, 0.5)


def test_a_linear_model_does_what_it_is_asked(found):
    scores = scored(found, Linear())
    images, before = scores.unedited()
    for direction in found.directions.values():
        figures, ratios = scores.figures(direction, images, before)
        for leaf in ("slope", "spearman"):
            np.testing.assert_allclose([figures[leaf].value, figures[leaf].low, figures[leaf].high], 1.0, rtol=1e-5)
        np.testing.assert_allclose(ratios, 1.0, rtol=1e-5)
        assert (figures["safe_low"], figures["safe_high"]) == (-2.0, 2.0)
        # The decoder keeps lengths: 1.5 sigma on average, over 48 pixels, in units of [0, 1].
        expected = 1.5 * direction.std / 2 / math.sqrt(48)
        np.testing.assert_allclose(figures["distance"].value, expected, rtol=1e-5)
        assert ("leakage" in figures) == (direction.sections is not None)
        assert abs(float(figures.get("leakage", 0.0))) < 1e-5
        assert ("target" in figures) == (direction.name in NAMES)
        if "target" in figures:
            assert figures["target"].value > 5 * figures["dependency"].value > 0
        assert figures["dependency"].count == figures["slope"].count == len(Z)


def test_what_an_encoder_does_not_give_back_is_no_edit(found):
    """One that shifts all codes, and halves them: the shift is on both sides, the halving is measured."""

    class Poor(Linear):
        def encode(self, images):
            return 0.5 * super().encode(images) + 7.0

    scores = scored(found, Poor())
    figures, _ = scores.figures(found.directions["pca1_sections_0-1"], *scores.unedited())
    np.testing.assert_allclose(figures["slope"].value, 0.5, rtol=1e-5)
    assert float(figures["leakage"]) < 1e-5


def test_the_map_of_sections(found):
    codes = CODES * np.array([1, 1, 2, 2, 0, 0], np.float32)  # the last section does not vary
    figures = section_map(Linear(), Z, Linear().draw(Z[:, None]), codes, 3)
    stds = {k: fit_pca(codes, sections=str(k), num_sections=3).std for k in (0, 1)}
    expected = {}
    for k, std in stds.items():
        expected[f"edits/section_{k}/first"] = std[0] / 2 / math.sqrt(48)
        expected[f"edits/section_{k}/mean"] = std.mean() / 2 / math.sqrt(48)
    assert set(figures) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(figures[name].value, value, rtol=1e-5)


def test_the_factor_that_was_asked_for_changes_and_no_other(found):
    base = Reader().read(Linear().draw(Z[:, None])[:, 0])
    asked = FactorEdits(Linear(), Reader(), NAMES, Z, base)
    figures = change_matrix(asked, found, sigma=6.0)
    assert set(figures) == {f"edits/matrix/{a}/{b}" for a in NAMES for b in NAMES} | {
        f"edits/reached/{n}" for n in NAMES
    }
    for name in NAMES:
        assert figures[f"edits/matrix/{name}/{name}"].value == figures[f"edits/reached/{name}"].value == 1.0
        assert all(figures[f"edits/matrix/{name}/{other}"].value < 0.3 for other in NAMES if other != name)
    still = change_matrix(asked, found, sigma=1e-9)
    assert all(figure.value == 0 for figure in still.values())
    printed = tables(figures, NAMES)
    assert "asked (% changed)" in printed and "reached" in printed


def test_mixed_sections_bring_their_parents_factors(found):
    base = Reader().read(Linear().draw(Z[:, None])[:, 0])
    figures = mixing(FactorEdits(Linear(), Reader(), NAMES, Z, base), 3)
    for cut in (1, 2):
        for section, name in enumerate(NAMES):
            shares = [figures[f"edits/mixing/cut_{cut}/{name}/{whose}"] for whose in ("first", "second", "neither")]
            assert [share.value for share in shares] == ([1, 0, 0] if section < cut else [0, 1, 0])
            assert shares[0].over == "pairs"
            assert shares[0].count == (base[:, section] != np.roll(base[:, section], -1)).sum()
    assert "0-1 of the first" in tables(figures, NAMES)


def test_pairs_that_agree_are_left_out(found):
    base = np.zeros((len(Z), 3), int)
    assert mixing(FactorEdits(Linear(), Reader(), NAMES, Z, base), 3) == {}


def test_the_choice_of_directions(found):
    options = {"components": 2, "per_range": 1, "most_labels": 2}
    chosen, lines = chosen_directions(found, ("pca", "ranges", "labels", "weights", "pca3"), **options)
    assert list(chosen) == ["pca1", "pca2", "pca1_sections_0-1", "pose", "hue", "pca3"]
    assert lines == [
        "edits: this model has no directions of the kind 'weights'",
        "edits: 2 of 3 label directions are scored, spread over all",
    ]
    with pytest.raises(
        ValueError, match="'smile' is neither one of pca, ranges, labels, weights nor a direction.*pca1"
    ):
        chosen_directions(found, ("smile",), **options)
    with pytest.raises(ValueError, match="edits_directions=.'weights',.: this model has none of these"):
        chosen_directions(found, ("weights",), **options)


def test_the_label_that_a_direction_is_of(found):
    probe = found.probes["hue"]
    toward = label_direction(probe, CODES, LABELS[:, 2], name="hue", target=1)
    assert label_of(toward, found) == ("hue", 1)
    assert label_of(found.directions["hue"], found) == ("hue", None)
    assert label_of(found.directions["pca1"], found) == (None, None)
    assert label_of(dataclasses.replace(toward, name="other=1"), found) == (None, None)


class HalfRight:
    """An oracle's stand-in: it is to be trusted with the first factor alone, and reads something off the image."""

    names, sizes = FACTOR_NAMES, FACTOR_SIZES

    def accuracy(self, dataset, spec, limit):
        return {name: mean_estimate(np.full(50, 0.5 if i else 1.0)) for i, name in enumerate(FACTOR_NAMES)}

    def read(self, images):
        return (np.abs(images).mean((1, 2, 3))[:, None] * 100).astype(int) % np.array(FACTOR_SIZES)


def get_config(root, **overrides):
    settings = {
        "eval__evaluators": ("edits",),
        "eval__edits_examples": 3,
        "eval__edits_sigmas": (-1.0, 1.0),
        "eval__edits_components": 1,
        "eval__edits_directions": ("pca", "ranges", "floor_hue"),
        "eval__edits_factor_examples": 4,
        "eval__edits_steps": 1,
        "eval__batch_size": 8,
        "sampling__batch_size": 8,
        "sampling__latent_codes": 64,
        "sampling__guidance_scale": 2.0,
        "model__denoiser__multipliers": (1,),
    }
    return tiny.scenes_config(str(root), **(settings | overrides))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return tmp_path_factory.mktemp("scenes")


def test_a_guided_model_with_sections(scenes, tmp_path, monkeypatch, capsys):
    asked = {}

    def stand_in(dataset, spec, **options):
        asked.update(options, count=len(dataset))
        return HalfRight()

    monkeypatch.setattr(oracle, "load_or_train", stand_in)
    config = get_config(scenes)
    tiny_checkpoint.write(tmp_path, config, 2)
    figures = evaluate(config, str(tmp_path))["SODA"]
    assert asked["name"] == "scenes" and asked["split"] == "train" and asked["steps"] == 1000
    assert asked["count"] == 384_000
    sections = Inference(config).num_sections
    ranges = sorted({name.split("/")[1] for name in figures if "_sections_" in name})
    leaves = {"slope", "spearman", "safe_low", "safe_high", "distance", "dependency"}
    expected = {f"edits/{prefix}pca1/{leaf}" for prefix in ("", "guidance_1/") for leaf in leaves}
    expected |= {f"edits/{prefix}floor_hue/{leaf}" for prefix in ("", "guidance_1/") for leaf in leaves | {"target"}}
    found = {name for name in figures if name.split("/")[-1] in leaves | {"target"} and "_sections_" not in name}
    assert found == expected
    assert len(ranges) == 1 + 2 * min(3, sections)  # and guidance_1
    assert {f"edits/section_{k}/{leaf}" for k in range(sections) for leaf in ("first", "mean")} <= set(figures)
    assert {f"edits/oracle/{name}" for name in FACTOR_NAMES} <= set(figures)
    assert "edits/matrix/floor_hue/floor_hue" in figures and "edits/reached/floor_hue" in figures
    assert "edits/reconstructed/floor_hue" in figures
    assert not any("scale" in name for name in figures if not name.startswith("edits/oracle"))  # not trusted
    assert all(math.isfinite(float(figure)) for figure in figures.values())
    assert figures["edits/pca1/slope"] != figures["edits/guidance_1/pca1/slope"]
    assert figures["edits/pca1/slope"].count == 3 and figures["edits/reached/floor_hue"].count == 4
    printed = capsys.readouterr().out
    assert "it is not asked about wall_hue, object_hue" in printed and "below 97%" in printed


def test_one_without_noise_or_sections(scenes, tmp_path, capsys):
    config = get_config(
        scenes,
        model__family="encdec",
        model__modulation__kind="full",
        eval__edits_directions=("pca",),
        eval__edits_oracle_steps=0,
    )
    tiny_checkpoint.write(tmp_path, config, 2)
    (figures,) = evaluate(config, str(tmp_path)).values()
    leaves = ("slope", "spearman", "safe_low", "safe_high", "dependency", "distance")
    assert list(figures) == [f"edits/pca1/{leaf}" for leaf in leaves]
    printed = capsys.readouterr().out
    assert "the latent acts as a whole, so there is no leakage, section map or mixing" in printed
    assert "no factors are read off the images: config.eval.edits_oracle_steps=0" in printed


def test_a_latent_of_tokens_is_refused(scenes):
    config = get_config(scenes, model__bottleneck=False, model__modulation__kind="cross_attention")
    context = type("Context", (), {"inference": Inference(config), "settings": config.eval})()
    with pytest.raises(ValueError, match="the evaluator 'edits' needs a latent that is one vector"):
        edits.Evaluator(context)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("edits_directions", (), "name at least one kind or direction"),
        ("edits_sigmas", (-1.0, 0.0), "different strengths, none of them 0"),
        ("edits_sigmas", (1.0, 1.0), "different strengths, none of them 0"),
        ("edits_steps", 101, "at most config.diffusion.num_timesteps=100"),
        ("edits_oracle_accuracy", 1.5, "must be between 0 and 1"),
    ],
)
def test_fields_that_cannot_be(field, value, message):
    with pytest.raises(config_lib.ConfigError, match=message):
        config_lib.validate(tiny.get_config(**{f"eval__{field}": value}))
