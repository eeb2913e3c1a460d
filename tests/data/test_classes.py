import numpy as np
import pytest

from soda_jax import data
from soda_jax.data.classes import ClassIndex


class Labelled:
    """Grey images whose level is their index; `labels` are given or found by going through."""

    def __init__(self, labels, offer=True):
        self._class_ids = np.asarray(labels, np.int32)
        self.labels = {"label": data.Labels((int(self._class_ids.max()) + 1,), ("label",))}
        if offer:
            self.class_ids = self._class_ids

    def __len__(self):
        return len(self._class_ids)

    def __getitem__(self, index):
        return {"image": np.full((10, 10, 3), index, np.uint8), "label": self._class_ids[index]}


LABELS = [7, 2, 2, 7, 5, 2, 7, 7]
SPEC = data.ViewSpec("class", source_resolution=4, target_resolution=4)


@pytest.mark.parametrize("offer", [True, False])
def test_random_partners_are_the_others_of_the_class_each_as_likely(offer):
    classes = ClassIndex(Labelled(LABELS, offer))
    rng = np.random.default_rng(0)
    for index, label in enumerate(LABELS):
        drawn = [classes.random_partner(index, rng) for _ in range(900)]
        others = [i for i, other in enumerate(LABELS) if other == label and i != index] or [index]
        counts = np.bincount(drawn, minlength=len(LABELS))
        assert counts[others].sum() == 900
        assert counts[others].min() > 900 / len(others) * 0.8


def test_next_partners_cycle_through_the_class():
    classes = ClassIndex(Labelled(LABELS))
    assert [classes.next_partner(i) for i in range(8)] == [3, 2, 5, 6, 4, 1, 7, 0]


@pytest.mark.parametrize("process_count", [1, 2])
def test_batches_pair_images_of_a_class(process_count):
    dataset = Labelled(LABELS)
    parts = [
        data.train_batches(dataset, SPEC, batch_size=8, seed=0, process_index=i, process_count=process_count)
        for i in range(process_count)
    ]
    whole = data.train_batches(dataset, SPEC, batch_size=8, seed=0)
    pairs = set()
    for step in range(40):
        batch = {key: np.concatenate([part[step][key] for part in parts]) for key in whole[0]}
        np.testing.assert_array_equal(batch["target"], whole[step]["target"])
        shown, target = batch["source"][:, 0, 0, 0, 0], batch["target"][:, 0, 0, 0]
        np.testing.assert_array_equal(np.array(LABELS)[shown], np.array(LABELS)[target])
        np.testing.assert_array_equal(np.array(LABELS)[shown], batch["label"])
        pairs |= set(zip(shown.tolist(), target.tolist(), strict=True))
    assert len(pairs) == 4 * 3 + 3 * 2 + 1


def test_evaluation_pairs_are_fixed():
    batches = list(data.eval_batches(Labelled(LABELS), SPEC, batch_size=4))
    shown = np.concatenate([b["source"][:, 0, 0, 0, 0] for b in batches])
    target = np.concatenate([b["target"][:, 0, 0, 0] for b in batches])
    assert shown.tolist() == list(range(8)) and target.tolist() == [3, 2, 5, 6, 4, 1, 7, 0]


def test_a_source_without_labels_is_refused(scenes):
    with pytest.raises(ValueError, match=r"'class' needs labels.*its labels: factors"):
        data.train_batches(scenes, SPEC, batch_size=4, seed=0)
    with pytest.raises(ValueError, match="choose another view_policy"):
        data.eval_batches(scenes, SPEC, batch_size=4)
