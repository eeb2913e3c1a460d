"""Novel views: an oracle is perfect, baselines agree with brute force, and the targets stay the same."""

import jax
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from soda_jax.data.pipeline import eval_batches
from soda_jax.data.views import ViewSpec
from soda_jax.evaluation.evaluators.novel_view import NovelView, nearest_source
from soda_jax.evaluation.image_scores import mean_target
from soda_jax.inference.engine import Inference
from soda_jax.metrics.bootstrap import mean_estimate
from soda_jax.models.pose import Camera
from tests import tiny, tiny_checkpoint
from tests.objects import Objects

SPEC = ViewSpec(policy="camera", num_sources=2, min_sources=1, source_resolution=8, target_resolution=8)
OBJECTS = Objects()


class Oracle:
    """Stands for `Inference`: shows the real view of the requested camera, disturbed in proportion to the sources.

    Notes every request.
    """

    sample_batch_size = 2
    latent_shape = (16,)

    class model:
        keeps_sources = False

    def __init__(self, noise=0.0):
        self.noise = noise
        self.encoded, self.sampled = [], []

    def round_up(self, batch_size):
        return batch_size

    def conditions(self, batch):
        source = Camera(batch["source_pose"], batch["source_intrinsics"], reference=batch["source_pose"][:, :1])
        target = Camera(batch["target_pose"], batch["target_intrinsics"], reference=batch["source_pose"][:, 0])
        return {"source_camera": source}, {"target_camera": target}

    def encode(self, variables, source, source_mask, source_camera):
        assert source.shape[:2] == source_mask.shape == source_camera.pose.shape[:2]
        for image, pose in zip(source.reshape(-1, 8, 8, 3), source_camera.pose.reshape(-1, 4, 4), strict=True):
            np.testing.assert_array_equal(image, OBJECTS.images[OBJECTS.place(pose)])
        self.encoded.append(source_camera.pose)
        return np.full((len(source), 16), 1.0 / source.shape[1], np.float32)

    def sample(self, variables, z, *, seed, indices, target_camera):
        assert target_camera.pose.shape == (len(z), 4, 4) and target_camera.reference.shape == (len(z), 4, 4)
        for value in dict.fromkeys(z[:, 0].tolist()):  # the part of the request from each number of sources
            rows = z[:, 0] == value
            self.sampled.append((indices[rows], jax.tree.map(lambda x, rows=rows: x[rows], target_camera)))
        images = np.stack([OBJECTS.images[OBJECTS.place(pose)] for pose in target_camera.pose])
        noise = np.random.default_rng(0).normal(0, self.noise, images.shape[1:]) * z[:, :1, None, None]
        return {"images": np.clip(images / 127.5 - 1 + noise, -1, 1).astype(np.float32)}


def evaluator(inference, **options):
    return NovelView(inference, OBJECTS, SPEC, **({"counts": (1, 3), "num_targets": 2} | options))


def test_an_oracle_is_perfect():
    results = evaluator(Oracle()).run({})
    assert set(results) == {f"novel_view{count}/{metric}" for count in (1, 3) for metric in ("psnr", "ssim")}
    assert min(results["novel_view1/psnr"].value, results["novel_view3/psnr"].value) > 100
    np.testing.assert_allclose(results["novel_view1/ssim"].value, 1.0, atol=1e-5)


def test_means_over_objects_and_targets_as_scikit_image_has_them():
    """Also that padding does not count: five objects in batches of two."""
    oracle = Oracle(noise=0.3)
    results = evaluator(oracle).run({})
    assert results["novel_view3/psnr"].value > results["novel_view1/psnr"].value + 5  # a third of the noise
    poses = np.concatenate([camera.pose for _, camera in oracle.sampled[::2]])[: 2 * len(OBJECTS)]
    targets = np.stack([OBJECTS.images[OBJECTS.place(pose)] for pose in poses]) / 255.0
    noise = np.random.default_rng(0).normal(0, 0.3, targets.shape[1:]) / 2
    pairs = list(zip(targets, np.clip(targets + noise, 0, 1), strict=True))
    psnr = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in pairs]
    ssim = [structural_similarity(a, b, data_range=1, win_size=7, channel_axis=-1) for a, b in pairs]
    found = results["novel_view1/psnr"]
    np.testing.assert_allclose(found.value, np.mean(psnr), rtol=1e-5)
    np.testing.assert_allclose(results["novel_view1/ssim"].value, np.mean(ssim), rtol=1e-4)
    by_object = mean_estimate(np.reshape(psnr, (5, 2)).mean(axis=1), over="objects")
    np.testing.assert_allclose((found.low, found.high), (by_object.low, by_object.high), rtol=1e-5)
    assert (found.count, found.over) == (5, "objects")


def test_the_same_targets_and_noise_for_all_numbers_of_nested_sources():
    oracle = Oracle()
    evaluator(oracle).run({})
    one, three = oracle.encoded[::2], oracle.encoded[1::2]
    for few, many in zip(one, three, strict=True):
        assert few.shape[1] == 1 and many.shape[1] == 3
        np.testing.assert_array_equal(few[:, 0], many[:, 0])
    for (first, camera), (again, same) in zip(oracle.sampled[::2], oracle.sampled[1::2], strict=True):
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(camera.pose, same.pose)
    np.testing.assert_array_equal([indices for indices, _ in oracle.sampled[::2]], np.arange(12).reshape(3, 4))
    for poses, (_, camera) in zip(three, oracle.sampled[1::2], strict=True):
        for number, (sources, targets) in enumerate(zip(poses, camera.pose.reshape(-1, 2, 4, 4), strict=True)):
            places = [OBJECTS.place(pose) for pose in (*sources, *targets)]
            assert len({thing for thing, _ in places}) == 1 and len(set(places)) == 5  # one object, no view twice
            np.testing.assert_array_equal(camera.reference[2 * number : 2 * number + 2], sources[[0, 0]])


def test_more_counts_do_not_move_the_views():
    few, many = Oracle(), Oracle()
    evaluator(few, counts=(1,)).run({})
    evaluator(many, counts=(1, 4)).run({})
    tiny.assert_equal([few.encoded, few.sampled], [many.encoded[::2], many.sampled[::2]])


def test_baselines_by_brute_force():
    mean_image = np.random.default_rng(2).random((8, 8, 3)).astype(np.float32)
    oracle = Oracle()
    found = evaluator(oracle, limit=3)
    found.run({})
    rows = found.baselines(mean_image)
    assert list(rows) == ["nearest source", "mean training image"]
    copies, means = [], []
    for sources, (_, camera) in zip(oracle.encoded[1::2], oracle.sampled[1::2], strict=True):
        for own, targets in zip(sources, camera.pose.reshape(-1, 2, 4, 4), strict=True):
            for target in targets:
                angles = [np.arccos(np.clip(np.dot(-pose[:3, 2], -target[:3, 2]), -1, 1)) for pose in own]
                image = OBJECTS.images[OBJECTS.place(target)] / 255.0
                copy = OBJECTS.images[OBJECTS.place(own[np.argmin(angles)])] / 255.0
                copies.append(peak_signal_noise_ratio(image, copy, data_range=1))
                means.append(-10 * np.log10(np.mean((image - mean_image) ** 2)))
    kept = slice(0, 6)  # the rest is padding
    np.testing.assert_allclose(rows["nearest source"]["novel_view3/psnr"].value, np.mean(copies[kept]), rtol=1e-5)
    for count in (1, 3):
        value = rows["mean training image"][f"novel_view{count}/psnr"].value
        np.testing.assert_allclose(value, np.mean(means[kept]), rtol=1e-5)
    assert rows["nearest source"]["novel_view1/psnr"] != rows["nearest source"]["novel_view3/psnr"]


def test_a_view_that_a_source_shows_exactly():
    poses = OBJECTS.poses[:2]
    np.testing.assert_array_equal(nearest_source(poses[:, :4], poses[:, [3, 0, 2]]), [[3, 0, 2]] * 2)


def test_mean_of_the_targets():
    batches = list(eval_batches(OBJECTS, SPEC, batch_size=5))
    expected = np.concatenate([batch["target"] for batch in batches]).astype(np.float64).mean(axis=0) / 255
    np.testing.assert_allclose(mean_target(batches), expected, atol=1e-6)
    np.testing.assert_allclose(mean_target([{"target": np.full((3, 2, 2, 3), v, np.uint8)} for v in (0, 51)]), 0.1)


def test_sources_and_targets_of_other_sizes():
    """Targets and the nearest source come at the targets' resolution with its intrinsics."""
    larger = Objects(count=2, side=16)
    spec = ViewSpec(policy="camera", num_sources=1, source_resolution=8, target_resolution=16)
    found = NovelView(Oracle(), larger, spec, counts=(1, 2), num_targets=3)
    (batch,) = found._batches()
    assert batch["source"].shape == (2, 2, 8, 8, 3)
    for number in range(2):
        for image, pose in zip(batch["target"][number], batch["target_pose"][number], strict=True):
            np.testing.assert_array_equal(image, larger.images[larger.place(pose)])
        for image, pose in zip(batch["source_as_target"][number], batch["source_pose"][number], strict=True):
            np.testing.assert_array_equal(image, larger.images[larger.place(pose)])
    np.testing.assert_allclose(batch["target_intrinsics"], np.broadcast_to(larger.intrinsics, (2, 3, 4)))
    np.testing.assert_allclose(batch["source_intrinsics"], np.broadcast_to(larger.intrinsics / 2, (2, 2, 4)))


def test_counts_that_the_objects_or_the_model_lack(capsys):
    assert evaluator(Oracle(), counts=(1, 4, 5, 9)).counts == (1, 4)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"novel_view: no scores for {count} sources: an object has 6 views, 2 of them targets" for count in (5, 9)
    ]
    tokens = Oracle()
    tokens.latent_shape = (64, 8)
    assert evaluator(tokens).counts == (1,)
    assert "3 sources: a model without a bottleneck takes one source" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"novel_view_sources=\(5, 9\): an object has 6 views.*lower it"):
        evaluator(Oracle(), counts=(5, 9))


def test_images_without_cameras():
    class Images:
        def __getitem__(self, index):
            return {"image": OBJECTS.images[0, 0]}

    for dataset, spec in ((Images(), SPEC), (OBJECTS, ViewSpec(policy="augment"))):
        with pytest.raises(ValueError, match="view_policy='camera' and a dataset of objects seen by known cameras"):
            NovelView(Oracle(), dataset, spec, counts=(1,))


@pytest.mark.parametrize("aggregation", ["mean", "stochastic"])
def test_a_real_model_compiles_one_sampler(aggregation):
    config = tiny.posed_config(model__aggregation__name=aggregation, sampling__batch_size=8)
    inference, variables = Inference(config), tiny_checkpoint.random_variables(config)
    results = evaluator(inference).run(variables)
    assert all(np.isfinite(float(figure)) for figure in results.values())
    assert results["novel_view1/psnr"].value != results["novel_view3/psnr"].value
    assert inference._encode._cache_size() == 2
    assert [sampler._cache_size() for sampler in inference._samplers.values()] == [1]
    alone = evaluator(inference, counts=(1,)).run(variables)["novel_view1/psnr"].value
    np.testing.assert_allclose(alone, results["novel_view1/psnr"].value, atol=0.05)
