"""PNG grids: every image in its place, readable at any size."""

import types

import numpy as np
import pytest

from soda_jax import inputs
from soda_jax.data.views import ViewSpec
from soda_jax.inference import grids
from soda_jax.models.capabilities import SOURCE, UNCONDITIONAL
from tests.objects import Objects

PALETTE = np.random.default_rng(0).integers(0, 256, (64, 3), np.uint8)


def cell(grid, row, column, side):
    top = grids.HEADER + row * (side + grids.PADDING)
    left = grids.PADDING + column * (side + grids.PADDING)
    return grid[top : top + side, left : left + side]


@pytest.mark.parametrize(("side", "drawn"), [(8, 96), (32, 96), (64, 128), (96, 96), (128, 128)])
def test_images_are_found_at_their_places(side, drawn):
    rng = np.random.default_rng(1)
    columns = {name: rng.integers(0, 256, (3, side, side, 3), np.uint8) for name in ("source", "target")}
    grid = grids.image_grid(columns)
    assert grid.dtype == np.uint8
    pad = grids.PADDING
    assert grid.shape == (grids.HEADER + 3 * (drawn + pad), pad + 2 * (drawn + pad), 3)
    times = drawn // side  # whole: every pixel is drawn equally large
    for column, images in enumerate(columns.values()):
        for row, image in enumerate(images):
            np.testing.assert_array_equal(cell(grid, row, column, drawn), image.repeat(times, 0).repeat(times, 1))


def test_columns_of_different_sizes_share_one():
    small, large = (np.full((1, side, side, 3), 9, np.uint8) for side in (64, 128))
    small[0, :32] = 200
    grid = grids.image_grid({"source": small, "target": large})
    np.testing.assert_array_equal(cell(grid, 0, 0, 128), small[0].repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(cell(grid, 0, 1, 128), large[0])


def test_each_column_has_its_caption_and_nothing_covers_the_images():
    columns = {name: np.zeros((1, 32, 32, 3), np.uint8) for name in ("source", "reconstruction", "unconditional")}
    header = grids.image_grid(columns)[: grids.HEADER]
    ink = [np.any(part < 128, axis=(0, 2)) for part in np.split(header[:, grids.PADDING :], 3, axis=1)]
    assert len({columns.sum() for columns in ink}) == 3  # three captions, none the same
    for dark in ink:
        assert dark.sum() > 20 and not dark[0] and not dark[-1]  # each fits its column


class Split:
    """Four examples of one colour each."""

    labels = {}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"image": np.broadcast_to(PALETTE[index], (8, 8, 3))}


class Echo:
    """Stands for `Inference`: the latent is the source's colour and the sample shows the latent."""

    model = types.SimpleNamespace(capabilities={SOURCE, UNCONDITIONAL})

    def conditions(self, batch):
        return {}, {}

    def guide(self, variables, source, source_mask):
        assert source_mask.all()
        return inputs.normalise_target(source[:, 0, 0, 0])

    def sample(self, variables, z, seed):
        return {"images": np.broadcast_to(np.asarray(z)[:, None, None], (len(z), 8, 8, 3))}

    def sample_unconditional(self, variables, count, seed):
        return {"images": np.full((count, 8, 8, 3), -1.0 if seed else 1.0)}


def spec(policy="augment"):
    return ViewSpec(policy=policy, num_sources=1, source_resolution=8, target_resolution=8)


def test_rows_are_examples_and_columns_what_became_of_them():
    grid = grids.GridWriter(Echo(), Split(), spec(), 2).draw({})
    assert grid.shape == (grids.HEADER + 2 * 100, grids.PADDING + 4 * 100, 3)
    for row, index in enumerate((0, 2)):  # spread over the split
        for column in range(3):
            assert (cell(grid, row, column, 96) == PALETTE[index]).all()
        assert (cell(grid, row, 3, 96) == 255).all()
    assert (cell(grids.GridWriter(Echo(), Split(), spec(), 2).draw({}, seed=1), 0, 3, 96) == 0).all()


def test_a_split_smaller_than_the_grid_gives_a_row_an_example():
    grid = grids.GridWriter(Echo(), Split(), spec(), 7).draw({})
    assert grid.shape[0] == grids.HEADER + 4 * 100
    assert (cell(grid, 3, 0, 96) == PALETTE[3]).all()


class TwoViews:
    """One example seen by two cameras, red and blue."""

    labels = {}

    def __len__(self):
        return 1

    def __getitem__(self, index):
        pose, intrinsics = np.eye(4, dtype=np.float32), np.full(4, 4.0, np.float32)
        colours = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
        views = [{"image": np.broadcast_to(c, (8, 8, 3)), "pose": pose, "intrinsics": intrinsics} for c in colours]
        return {"views": views}


@pytest.mark.parametrize(
    ("dataset", "policy", "third"),
    [(Split(), "augment", "reconstruction"), (Split(), "same", "reconstruction"), (TwoViews(), "camera", "novel view")],
)
def test_columns_are_named_by_what_they_show(monkeypatch, dataset, policy, third):
    drawn = []
    monkeypatch.setattr(grids, "image_grid", drawn.append)
    grids.GridWriter(Echo(), dataset, spec(policy), 1).draw({})
    (columns,) = drawn
    assert list(columns) == ["source", "target", third, "unconditional"]
    np.testing.assert_array_equal(columns[third], columns["source"])  # the echo
    assert (columns["target"] == columns["source"]).all() == (policy != "camera")


def test_what_samples_without_noise_has_no_unconditional_column(monkeypatch):
    drawn = []
    monkeypatch.setattr(grids, "image_grid", drawn.append)
    monkeypatch.setattr(Echo, "model", types.SimpleNamespace(capabilities={SOURCE}))
    grids.GridWriter(Echo(), Split(), spec(), 1).draw({})
    assert list(drawn[0]) == ["source", "target", "reconstruction"]


class PosedEcho(Echo):
    """As `Echo` for a model with cameras: a sample shows the side of the camera that it is asked for, and a latent."""

    def conditions(self, batch):
        return {"source_camera": batch["source_pose"]}, {"target_camera": batch["target_pose"]}

    def guide(self, variables, source, source_mask, source_camera):
        return source_camera[:, 0, 0, 3]

    def sample(self, variables, z, seed, target_camera):
        images = np.zeros((len(z), 8, 8, 3))
        images[..., 0], images[..., 1] = z[:, None, None] / 4, target_camera[:, 0, 3, None, None] / 4
        return {"images": images}

    def sample_unconditional(self, variables, count, seed, target_camera):
        return self.sample(variables, np.zeros(count), seed, target_camera)


def test_the_targets_camera_shows_new_objects_too(monkeypatch):
    objects, drawn = Objects(count=3), []
    monkeypatch.setattr(grids, "image_grid", drawn.append)
    grids.GridWriter(PosedEcho(), objects, spec("camera"), 3).draw({})
    (columns,) = drawn
    assert list(columns) == ["source", "target", "novel view", "pose only"]
    for row in range(3):
        source, target = (objects.images[row] == columns[name][row] for name in ("source", "target"))
        across = [objects.poses[row, found.all((1, 2, 3)).argmax(), 0, 3] / 4 for found in (source, target)]
        expected = inputs.to_uint8(np.array([[*across, 0.0], [0.0, across[1], 0.0]]))
        np.testing.assert_array_equal(columns["novel view"][row, 0, 0], expected[0])
        np.testing.assert_array_equal(columns["pose only"][row, 0, 0], expected[1])
