"""Pictures of the latent space: what their frames show, by a model whose images are its latents."""

import contextlib
import types

import numpy as np
import pytest
from PIL import ImageDraw

from soda_jax import config as config_lib
from soda_jax import inputs
from soda_jax.data.views import ViewSpec
from soda_jax.inference import (
    attribute_walks,
    direction_walks,
    grids,
    interpolation,
    mixing,
    noises,
    pca_walks,
    pictures,
    resampling,
    sample,
)
from soda_jax.inference.directions import Found
from soda_jax.inference.engine import Inference
from soda_jax.latents.finding import label_direction, pca_directions
from soda_jax.latents.pca import fit_pca
from soda_jax.latents.probing import fit_probe
from soda_jax.models.capabilities import DECODE, LATENT, NOISE, SECTIONS
from soda_jax.workdir import directions as files
from tests import tiny, tiny_checkpoint

SIDE, DIM, PARTS = 8, 8, 4  # two dimensions a section
LATENT_PICTURES = ("interpolation", "pca", "attributes", "mixing", "resample", "noise")


class Split:
    """`count` random images."""

    labels = {"factors": object()}

    def __init__(self, count=6):
        self.images = np.random.default_rng(3).integers(64, 192, (count, SIDE, SIDE, 3), np.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index]}


class Shows:
    """Stands for `Inference`: a latent is the first row of an image; a sample shows the latent, the mask, the noise."""

    num_sections = PARTS

    def __init__(self, *capabilities, sectioned=True, keeps_sources=False):
        self.model = types.SimpleNamespace(
            capabilities=set(capabilities) or {LATENT, SECTIONS, NOISE},
            generator=types.SimpleNamespace(sectioned=sectioned),
            keeps_sources=keeps_sources,
            pose=None,
            title="Shows",
        )
        self.latent_shape = (2, DIM) if keeps_sources else (DIM,)
        self.config = tiny.get_config()

    def conditions(self, batch):
        return {}, {}

    def encode(self, variables, source, source_mask):
        return inputs.normalise_target(source[:, 0, 0, :, 0])

    def sample(self, variables, z, section_mask=None, *, seed=0, indices=None):
        images = np.zeros((len(z), SIDE, SIDE, 3), np.float32)
        images[:, 0] = z[:, :, None]
        images[:, 1] = 1 if section_mask is None else np.repeat(section_mask, DIM // PARTS, axis=1)[..., None]
        noise = np.arange(len(z)) if indices is None else indices
        images[:, 2] = (np.asarray(noise) / 10 + seed / 100)[:, None, None]
        return {"images": np.clip(images, -1, 1)}


def shown(images):
    """(latents, masks, noises) that samples of `Shows` [..., 8, 8, 3] tell of."""
    values = np.asarray(images, np.float64)[..., 0] / 127.5 - 1
    return values[..., 0, :], values[..., 1, :: DIM // PARTS] > 0.5, values[..., 2, 0]


def found():
    """What 200 latents with two labels tell."""
    rng = np.random.default_rng(0)
    codes = (0.2 * rng.standard_normal((200, DIM)) * np.linspace(1, 0.3, DIM)).astype(np.float32)
    labels = np.stack([codes[:, 1] > 0, np.digitize(codes[:, 5], (-0.05, 0.05))], axis=1).astype(int)
    names, sizes = ("hat", "hue"), (2, 3)
    lines = [line for where in (None, "0-1", "3") for line in pca_directions(codes, 2, sections=where, num_sections=4)]
    probes = {name: fit_probe(codes, labels[:, i], sizes[i]) for i, name in enumerate(names)}
    lines += [
        label_direction(probe, codes, labels[:, i], name=name, num_sections=4)
        for i, (name, probe) in enumerate(probes.items())
    ]
    return Found(codes, labels, names, sizes, probes, {line.name: line for line in lines}, fit_pca(codes))


def get_context(inference=None, dataset=None, **settings):
    settings = {"num_images": 3, "walk_sigma": 1.0, "walk_frames": 3} | settings
    config = tiny.get_config(**{f"sampling__{name}": value for name, value in settings.items()})
    spec = ViewSpec(policy="same", num_sources=1, source_resolution=SIDE, target_resolution=SIDE)
    return pictures.PictureContext(inference or Shows(), {}, dataset or Split(), spec, config.sampling, 5, found)


@pytest.fixture
def drawn(monkeypatch):
    """What each grid was drawn from: (columns, rows, title)."""
    calls, original = [], grids.image_grid

    def image_grid(columns, *, rows=(), title=""):
        calls.append((dict(columns), list(rows), title))
        return original(columns, rows=rows, title=title)

    for module in (grids, direction_walks, interpolation, mixing, noises, resampling):
        monkeypatch.setattr(module, "image_grid", image_grid)
    return calls


def codes_of(images):
    return inputs.normalise_target(np.asarray(images)[:, 0, :, 0])


QUANTUM = 1 / 127  # of a pixel


def test_interpolation(drawn):
    context = get_context(walk_frames=5, walk_between=0)
    picture = interpolation.picture(context)
    columns, _, title = drawn[0]
    assert list(columns) == ["source 1", "l = 0", "l = 0.25", "l = 0.5", "l = 0.75", "l = 1", "source 2"]
    assert "from z alone" in title and "seed 5" in title and "whole latent" in title
    images = Split().images
    np.testing.assert_array_equal(columns["source 1"], images[::2])
    np.testing.assert_array_equal(columns["source 2"], images[1::2])
    first, second = codes_of(images[::2]), codes_of(images[1::2])
    for share in (0, 0.25, 0.5, 0.75, 1):
        z, _, noise = shown(columns[f"l = {share:g}"])
        np.testing.assert_allclose(z, (1 - share) * first + share * second, atol=QUANTUM)
        np.testing.assert_allclose(noise, [0.05, 0.15, 0.25], atol=QUANTUM)  # of a pair, whatever the frame
    assert picture.still.shape[0] > grids.HEADER + 3 * 100 and picture.still.shape[1] >= grids.PADDING + 7 * 100
    assert len(picture.frames) == 2 * 5 - 2 and len({frame.shape for frame in picture.frames}) == 1
    np.testing.assert_array_equal(picture.frames[1], picture.frames[-1])  # there and back


def test_frames_of_the_animation_between_the_columns(drawn):
    picture = interpolation.picture(get_context(walk_frames=3, walk_between=2))
    assert list(drawn[0][0])[1:-1] == ["l = 0", "l = 0.5", "l = 1"]
    assert [list(columns)[1] for columns, *_ in drawn[1:]] == [f"l = {i / 6:.3g}" for i in range(7)]
    assert len(picture.frames) == 12


def test_principal_components(drawn):
    context = get_context()
    picture = pca_walks.picture(context)
    blocks = drawn[:3]  # strips; frames of the animation come later
    lines, start = found().of_kind("pca"), codes_of(Split().images[:1])[0]
    still = shown(context.inference.sample({}, start[None], seed=5)["images"] * 127.5 + 127.5)[0]
    for number, (where, (columns, rows, title)) in enumerate(
        zip(("whole latent", "sections 0-1", "section 3"), blocks, strict=True)
    ):
        assert list(columns) == ["source", "-1 sigma", "0 sigma", "+1 sigma"]
        assert where in title and "from z alone" in title and "200 training images" in title
        for i, row in enumerate(rows):
            line = lines[2 * number + i]
            assert row.splitlines()[:3] == [f"component {i + 1}", where, line.source]
            assert f"image at {line.position(start[None])[0]:+.1f} sigma" in row
            for sigma, caption in ((-1, "-1 sigma"), (0, "0 sigma"), (1, "+1 sigma")):
                z, mask, noise = shown(columns[caption][i])
                np.testing.assert_allclose(z, start + sigma * line.std * line.vector, atol=QUANTUM)
                assert mask.all() and abs(noise - 0.05) < QUANTUM
            np.testing.assert_allclose(shown(columns["0 sigma"][i])[0], still[0], atol=QUANTUM)
    assert picture.still.shape[0] == sum(grids.image_grid(c, rows=r, title=t).shape[0] for c, r, t in blocks)
    assert len(picture.frames) == 2 * 5 - 2
    assert [title.split(",")[0] for *_, title in drawn[3:6]] == ["-1 sigma"] * 3


def test_labels_directions(drawn):
    attribute_walks.picture(get_context())
    columns, rows, title = drawn[0]
    assert [row.splitlines()[:2] for row in rows] == [["hat", "whole latent"], ["hue", "whole latent"]]
    assert title.startswith("2 of 2 label directions")
    positions = [found().probes["hat"].logits(shown(columns[c][:1])[0])[0, 1] for c in ("-1 sigma", "+1 sigma")]
    assert positions[1] > positions[0] + 1  # a hat comes
    drawn.clear()
    attribute_walks.picture(get_context(num_attributes=1))
    assert len(drawn[0][1]) == 1 and "1 of 2" in drawn[0][2]


def test_no_labels_that_vary():
    context = get_context()
    bare = types.SimpleNamespace(of_kind=lambda *kinds: [])
    assert attribute_walks.picture(pictures.PictureContext(**(vars(context) | {"found": lambda: bare}))) is None


def test_mixing(drawn):
    picture = mixing.picture(get_context(section_ranges=("0", "1-3")))
    (columns, rows, title), *others = drawn
    assert not others and not picture.frames
    assert list(columns) == ["source", "style 1", "style 2", "style 3"]
    assert rows == ["", "structure 1", "structure 2", "structure 3"]
    assert "section 0, of the rows" in title and "sections 1-3, of the columns" in title
    sources = Split().images[::2]
    z = codes_of(sources)
    np.testing.assert_array_equal(columns["source"][1:], sources)
    assert (columns["source"][0] == 255).all()
    for j in range(3):
        column = columns[f"style {j + 1}"]
        np.testing.assert_array_equal(column[0], sources[j])
        mixed, _, noise = shown(column[1:])
        np.testing.assert_allclose(mixed[:, :2], z[:, :2], atol=QUANTUM)
        np.testing.assert_allclose(mixed[:, 2:], np.tile(z[j, 2:], (3, 1)), atol=QUANTUM)
        np.testing.assert_allclose(noise, [0.05, 0.15, 0.25], atol=QUANTUM)


def test_cuts():
    assert mixing.cuts(("0-1", "2-3", "4"), 5) == [2, 4]
    assert mixing.cuts(("0-4",), 5) == [2]
    assert mixing.cuts(("2-3", "0", "2"), 5) == [2]


def test_resampling(drawn):
    resampling.picture(get_context(num_seeds=2))
    ((columns, _, title),) = drawn
    expected = [f"no {part}, seed {seed}" for part in ("0-1", "2", "3") for seed in (5, 6)]
    assert list(columns) == ["source", "all sections", *expected] and "from z alone" in title
    z = codes_of(Split().images[::2])
    for caption, dropped in {"all sections": [], "no 0-1, seed 5": [0, 1], "no 3, seed 6": [3]}.items():
        latent, mask, noise = shown(columns[caption])
        np.testing.assert_allclose(latent, z, atol=QUANTUM)
        np.testing.assert_array_equal(mask, np.tile(~np.isin(np.arange(PARTS), dropped), (3, 1)))
        seed = 0.06 if caption.endswith("6") else 0.05
        np.testing.assert_allclose(noise, seed + np.array([0, 0.1, 0.2]), atol=QUANTUM)


def test_noises(drawn):
    noises.picture(get_context(num_seeds=3))
    ((columns, _, title),) = drawn
    assert list(columns) == ["source", "noise 5", "noise 6", "noise 7"] and "from z alone" in title
    for seed in (5, 6, 7):
        z, _, noise = shown(columns[f"noise {seed}"])
        np.testing.assert_allclose(z, codes_of(Split().images[::2]), atol=QUANTUM)
        np.testing.assert_allclose(noise, seed / 100 + np.array([0, 0.1, 0.2]), atol=QUANTUM)


@pytest.mark.parametrize(
    ("inference", "dataset", "left"),
    [
        (Shows(), Split(), LATENT_PICTURES),
        (Shows(sectioned=False), Split(), ("interpolation", "pca", "attributes", "noise")),
        (Shows(keeps_sources=True), Split(), ("noise",)),
        (Shows(LATENT, SECTIONS, DECODE), Split(), ("interpolation", "pca", "attributes", "mixing")),
        (Shows(), Split(1), ("pca", "attributes", "resample", "noise")),
    ],
    ids=["all", "whole latent", "latents of sources", "no noise", "one image"],
)
def test_what_a_model_cannot_give_is_left_out(inference, dataset, left):
    context = get_context(inference, dataset)
    assert tuple(name for name in LATENT_PICTURES if not pictures.missing(name, context)) == left
    for name in set(LATENT_PICTURES) - set(left):
        assert pictures.draw(name, context) is None


def test_no_labels_no_attributes():
    dataset = Split()
    dataset.labels = {}
    assert pictures.missing("attributes", get_context(dataset=dataset)) == "labels"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"model__modulation__kind": "full"}, ("mixing", "resample")),
        ({"model__family": "encdec"}, ("resample", "noise")),
        ({}, ()),
    ],
    ids=["full", "encdec", "layer"],
)
def test_real_models_lack_as_told(overrides, named):
    inference = Inference(tiny.get_config(**overrides))
    context = get_context(inference)
    assert tuple(name for name in LATENT_PICTURES if pictures.missing(name, context)) == named


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sampling__walk_frames": 1}, "config.sampling.walk_frames=1: must be between 2 and 100"),
        ({"sampling__walk_sigma": 0.0}, "config.sampling.walk_sigma=0.0"),
        ({"sampling__num_seeds": 0}, "config.sampling.num_seeds=0"),
        ({"sampling__section_ranges": ("0-9",)}, r"section_ranges=\('0-9',\).*sections 0-"),
        ({"sampling__section_ranges": ("all",)}, "inclusive range"),
        ({"sampling__section_ranges": ("0",), "model__modulation__kind": "full"}, "without sections; leave it empty"),
    ],
)
def test_settings_out_of_range(overrides, message):
    with pytest.raises(config_lib.ConfigError, match=message):
        config_lib.validate(tiny.get_config(**overrides))


def test_rows_titles_and_wide_captions_leave_the_images_whole():
    images = np.random.default_rng(1).integers(0, 128, (2, 96, 96, 3), np.uint8)
    caption = "a caption wider than the images of its column"
    plain, full = grids.image_grid({"a": images}), grids.image_grid({caption: images}, rows=["x", "y\nz"], title="t\nu")
    assert full.shape[0] > plain.shape[0] and full.shape[1] > plain.shape[1] + 100
    windows = np.lib.stride_tricks.sliding_window_view(full[:, :, 0], (96, 96))
    for image in images:
        corners = np.argwhere(
            (windows[:, :, 0, :8] == image[0, :8, 0]).all(-1) & (windows[:, :, -1, 0] == image[-1, 0, 0])
        )
        assert any((full[y : y + 96, x : x + 96] == image).all() for y, x in corners)
    stacked = grids.stacked([plain, full])
    np.testing.assert_array_equal(stacked[: len(plain), : plain.shape[1]], plain)
    assert (stacked[: len(plain), plain.shape[1] :] == 255).all()


@pytest.fixture(scope="module")
def geometry(tmp_path_factory):
    return str(tmp_path_factory.mktemp("geometry"))


def small(geometry, **overrides):
    settings = {
        "sampling__latent_codes": 40,
        "sampling__pca_components": 2,
        "sampling__num_images": 2,
        "sampling__num_seeds": 2,
        "sampling__walk_frames": 3,
        "sampling__walk_between": 0,
        "sampling__num_attributes": 2,
        "sampling__pictures": ("grid", *LATENT_PICTURES),
    }
    return tiny.scenes_config(geometry, **(settings | overrides))


@contextlib.contextmanager
def texts(monkeypatch):
    written, original = [], ImageDraw.ImageDraw.text

    def text(self, place, what, *args, **kwargs):
        written.append(what)
        return original(self, place, what, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ImageDraw.ImageDraw, "text", text)
        yield written


def test_all_of_them_from_a_checkpoint(geometry, tmp_path, drawn, monkeypatch, capsys):
    config = small(geometry)
    tiny_checkpoint.write(tmp_path, config, 3)
    with texts(monkeypatch) as written:
        sample.sample(config, str(tmp_path))
    said = capsys.readouterr().out
    stills = {path.name.split("_")[0] for path in (tmp_path / "samples").glob("*.png")}
    assert stills == {"grid", *LATENT_PICTURES}
    moving = {path.name.split("_")[0] for path in (tmp_path / "samples").glob("*.gif")}
    assert moving == {"interpolation", "pca", "attributes"}
    kept = files.load_all(files.folder(tmp_path, 3))
    assert said.count(f"{len(kept)} directions of 40 latents in {tmp_path}") == 1  # found once for all pictures
    captions = "\n".join(written)
    for caption in (
        "component 2\nsections 0-1",
        "floor_hue\nwhole latent",
        "style, section 4",
        "no 2-3, seed 0",
        "from z alone",
    ):
        assert caption in captions, caption
    # At 0 sigma every walk is the grid's reconstruction, which has the same noise; so are the matrix's diagonals.
    again = drawn[0][0]["reconstruction"].astype(int)
    walks = [columns["0 sigma"] for columns, *_ in drawn if "0 sigma" in columns]
    assert len(walks) == 5  # the whole latent, three ranges, the labels
    assert all(np.abs(images - again[0]).max() <= 1 for images in walks)
    matrices = [columns for columns, *_ in drawn if "style 1" in columns]
    assert len(matrices) == 2
    for columns in matrices:
        assert all(np.abs(columns[f"style {i + 1}"][i + 1] - again[i]).max() <= 1 for i in range(2))
    assert all(np.abs(columns["noise 0"] - again).max() <= 1 for columns, *_ in drawn if "noise 0" in columns)


def test_an_encoder_decoders_pictures(geometry, tmp_path, capsys):
    config = small(geometry, model__family="encdec")
    tiny_checkpoint.write(tmp_path, config, 3)
    sample.sample(config, str(tmp_path))
    stills = {path.name.split("_")[0] for path in (tmp_path / "samples").glob("*.png")}
    assert stills == {"grid", "interpolation", "pca", "attributes", "mixing"}
    assert "no noise, which needs a model that samples from noise" in capsys.readouterr().out


def test_none_is_left(geometry, tmp_path):
    config = small(geometry, model__modulation__kind="full", sampling__pictures=("mixing",))
    tiny_checkpoint.write(tmp_path, config, 3)
    with pytest.raises(ValueError, match=r"pictures=\('mixing',\): with these settings the model gives none"):
        sample.sample(config, str(tmp_path))
