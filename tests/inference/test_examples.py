"""Which held-out examples an export gets: evenly of every class, readable, and seen as evaluation sees them."""

import numpy as np
import pytest

from soda_jax.data.datasets import Labels
from soda_jax.data.datasets.bad_files import BadFiles
from soda_jax.data.decode import DecodeError
from soda_jax.data.views import ViewSpec
from soda_jax.inference import examples
from tests import objects

SPEC = ViewSpec(policy="class", num_sources=1, source_resolution=8, target_resolution=8)


class Classes:
    """Images of `classes`, stored one class after another; every pixel is the image's place. Some cannot be read."""

    def __init__(self, classes, broken=()):
        self.class_ids = np.array(classes)
        self.labels = {"label": Labels((int(self.class_ids.max()) + 1,), ("label",))}
        self._broken = broken

    def __len__(self):
        return len(self.class_ids)

    def __getitem__(self, index):
        if index in self._broken:
            return {"image": Broken(index), "label": np.int32(self.class_ids[index])}
        return {"image": np.full((8, 8, 3), index, np.uint8), "label": np.int32(self.class_ids[index])}


class Broken:
    """An image that fails when its shape is asked for, as a file does."""

    def __init__(self, index):
        self.name = f"{index}.png"

    @property
    def shape(self):
        raise DecodeError(self.name, "broken")


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ((6, 6, 6), 6, (2, 2, 2)),
        ((6, 6, 6), 7, (3, 2, 2)),
        ((1, 6, 6), 8, (1, 4, 3)),  # what a class lacks, others have
        ((1, 1, 1), 9, (1, 1, 1)),
        ((5, 5, 5, 5), 2, (1, 0, 1, 0)),  # fewer than classes
    ],
)
def test_they_are_spread_evenly_over_the_classes(sizes, count, expected):
    dataset = Classes(np.repeat(np.arange(len(sizes)), sizes))
    places = examples.spread(dataset, count)
    assert len(set(places)) == len(places) and (np.diff(places) > 0).all()
    assert tuple(np.bincount(dataset.class_ids[places], minlength=len(sizes))) == expected


def test_without_classes_they_are_spread_over_the_split():
    np.testing.assert_array_equal(examples.spread(objects.Objects(count=10), 5), [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(examples.spread(objects.Objects(count=3), 5), [0, 1, 2])


def test_an_image_that_cannot_be_read_is_left_out(tmp_path):
    dataset = Classes([0, 0, 0, 1, 1, 1], broken=(3,))
    dataset.bad_files = BadFiles(tmp_path, [f"{i}.png" for i in range(6)], max_share=1.0)
    found = examples.taken(dataset, SPEC, 4, views=4, credit="here", license_id="")
    assert found.images.shape == (3, 8, 8, 3) and found.images[:, 0, 0, 0].tolist() == [0, 1, 4]
    assert found.labels["label"].tolist() == [0, 0, 1] and found.poses is None
    assert found.credits == ("here, example 0", "here, example 1", "here, example 4")
    dataset.credit = lambda index: "a chair by Ada" if index == 1 else ""
    found = examples.taken(dataset, SPEC, 4, views=4, credit="here", license_id="")
    assert found.credits == ("here, example 0", "here, example 1: a chair by Ada", "here, example 4")


def test_objects_have_as_many_views_as_there_are():
    spec = ViewSpec(policy="camera", num_sources=2, min_sources=1, source_resolution=8, target_resolution=8)
    for views, expected in ((3, 3), (100, 5)):  # of 6, one is the target of an evaluation
        found = examples.taken(objects.Objects(), spec, 2, views=views, credit="", license_id="cc0-1.0")
        assert found.images.shape == (2, expected, 8, 8, 3) and found.poses.shape == (2, expected, 4, 4)
        assert len(np.unique(found.images.reshape(2 * expected, -1), axis=0)) == 2 * expected
