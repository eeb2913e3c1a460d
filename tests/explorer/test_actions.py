"""What the tabs draw is what the model's own methods give, under the noise that was asked for."""

import numpy as np
import pytest

import soda_jax
from soda_jax.explorer import actions
from soda_jax.explorer.actions import Edit, Sampling
from soda_jax.explorer.images import Chosen
from tests import tiny, tiny_checkpoint
from tests.explorer.made_images import SIDE, chosen, random_images

A, B = chosen(1), chosen(2)
TWO_STEPS = Sampling(steps=2)


def load(folder, **overrides):
    tiny_checkpoint.write(folder, tiny.get_config(**overrides), 1)
    return soda_jax.load(folder)


def test_tabs_are_those_that_the_model_can_give(model, tmp_path):
    assert actions.tabs(model) == ("Reconstruct", "Walk", "Edit", "Mix", "Resample")
    cases = {
        "full": ({"model__modulation__kind": "full"}, ("Reconstruct", "Walk", "Edit")),
        "encdec": ({"model__family": "encdec"}, ("Reconstruct", "Walk", "Edit", "Mix")),
        "uncond": ({"model__family": "uncond"}, ()),
        "palette": ({"model__family": "palette"}, ("Reconstruct",)),
    }
    for name, (overrides, expected) in cases.items():
        assert actions.tabs(load(tmp_path / name, **overrides)) == expected, name


def test_reconstructions_under_several_noises(model):
    images = actions.reconstruct(model, A, Sampling(steps=3, guidance=2.5, seed=4), noises=5)
    expected = model.reconstruct(np.repeat(A.views[:1], 5, axis=0), 2.5, 3, seed=4)
    np.testing.assert_array_equal(images, expected)
    assert len(np.unique(images, axis=0)) == 5
    preview = actions.reconstruct(model, A, Sampling(seed=4).preview())
    np.testing.assert_array_equal(preview, model.reconstruct(A.views[:1], None, 10, seed=4, method="ddim"))
    assert Sampling(steps=3).preview().steps == 3 and Sampling(steps=100).preview().steps == 10


def test_a_walk_goes_from_one_image_to_the_other(model):
    reported = []
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    frames = actions.walk(model, A, B, shares, TWO_STEPS, lambda *done: reported.append(done))
    np.testing.assert_array_equal(frames, model.interpolate(A.views, B.views, 5, sampling_steps=2)[0])
    assert reported == [(4, 5), (5, 5)]
    with pytest.raises(ValueError, match=r"shares=\(1.5,\): give numbers from 0"):
        actions.walk(model, A, B, (1.5,), TWO_STEPS)


def test_an_edit_moves_to_a_place(model):
    own = actions.place(model, A, "line")
    found = actions.edit(model, A, Edit("line", own + 0.8), TWO_STEPS)
    np.testing.assert_array_equal(found.before, model.reconstruct(A.views, steps=2)[0])
    expected = model.edit(A.views, {"line": 0.8}, sampling_steps=2)[0]
    np.testing.assert_allclose(found.after.astype(int), expected.astype(int), atol=1)
    assert found.own == pytest.approx(own) and found.asked == pytest.approx(0.8, abs=1e-4)
    line = model.directions["line"]
    shift = line.position(model.encode(found.after[None])) - line.position(model.encode(found.before[None]))
    assert found.realised == pytest.approx(float(shift[0]), abs=1e-4)
    still = actions.edit(model, A, Edit("line", own), TWO_STEPS)
    np.testing.assert_allclose(still.before.astype(int), still.after.astype(int), atol=1)
    assert still.asked == pytest.approx(0, abs=1e-5)


def test_an_edit_of_sections_with_others_held(model):
    own = actions.place(model, A, "line")
    part = actions.edit(model, A, Edit("line", own + 1, sections="2"), TWO_STEPS)
    share = np.square(model.directions["line"].vector[11:]).sum()  # sections of 6, 5 and 5 dimensions
    assert part.asked == pytest.approx(share, abs=1e-4)
    held = actions.edit(model, A, Edit("line", own + 0.5, hold=("inner",)), TWO_STEPS)
    z = model.encode(A.views)
    moved = model.move(z, {"line": own + 0.5}, mode="set", hold=["inner"])
    assert model.directions["inner"].position(moved) == pytest.approx(model.directions["inner"].position(z), abs=1e-4)
    np.testing.assert_allclose(held.after.astype(int), model.sample(moved, steps=2)[0].astype(int), atol=1)


def test_a_film_of_an_edit_passes_through_its_places(model):
    edit = Edit("line", 9.0)
    own = actions.place(model, A, "line")
    frames = actions.edit_walk(model, A, edit, (own, own + 0.5), TWO_STEPS)
    single = actions.edit(model, A, Edit("line", own + 0.5), TWO_STEPS)
    np.testing.assert_allclose(frames.astype(int), np.stack([single.before, single.after]).astype(int), atol=1)


def test_mixtures_both_ways(model):
    images = actions.mix(model, A, B, 2, TWO_STEPS)
    options = {"sections": "0-1", "sampling_steps": 2}
    np.testing.assert_array_equal(images[0], model.mix(A.views, B.views, **options)[0])
    np.testing.assert_array_equal(images[1], model.mix(B.views, A.views, **options)[0])
    for cut in (0, 3):
        with pytest.raises(ValueError, match=f"cut={cut}: the latent has 3 sections; give 1 to 2"):
            actions.mix(model, A, B, cut, TWO_STEPS)


def test_sections_left_to_chance(model):
    images = actions.resample(model, A, [0, 1], TWO_STEPS, count=3)
    np.testing.assert_array_equal(images, model.resample(A.views, sections="0-1", num=3, sampling_steps=2)[0])
    apart = actions.resample(model, A, [2, 0], TWO_STEPS, count=2)
    expected = model.sample(np.repeat(model.encode(A.views), 2, axis=0), steps=2, section_mask=[0, 1, 0])
    np.testing.assert_array_equal(apart, expected)
    kept = actions.resample(model, A, [], TWO_STEPS, count=2)
    np.testing.assert_array_equal(kept, actions.reconstruct(model, A, TWO_STEPS, 2))
    with pytest.raises(ValueError, match=r"sections \[3\]: the latent has 3, 0 to 2"):
        actions.resample(model, A, [3], TWO_STEPS)


def test_a_decoder_without_noise(tmp_path):
    model = load(tmp_path, model__family="encdec")
    images = actions.reconstruct(model, A, Sampling(steps=2, guidance=2.0, seed=3).preview(), noises=4)
    np.testing.assert_array_equal(images, model.reconstruct(A.views))
    frames = actions.walk(model, A, B, (0.0, 1.0), Sampling())
    np.testing.assert_array_equal(frames, model.interpolate(A.views, B.views, 2)[0])
    with pytest.raises(ValueError, match="Resample needs a model with sampling from noise"):
        actions.resample(model, A, [0], Sampling())


def test_several_views_of_one_object_make_one_latent(tmp_path):
    model = load(tmp_path, data__num_sources=2)
    both = Chosen(random_images(1, 5, views=2)[0], None, "two views")
    np.testing.assert_array_equal(
        actions.reconstruct(model, both, TWO_STEPS), model.reconstruct(both.views[None], steps=2)
    )
    assert actions.walk(model, both, both, (0.5,), TWO_STEPS).shape == (1, SIDE, SIDE, 3)
