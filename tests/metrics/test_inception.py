"""FID's network against its PyTorch definition on the same random weights; files of other networks.

Where PyTorch is absent, a few features that it gave stand for it (`PYTORCH_FEATURES`).
"""

import functools
import io
import tracemalloc
import zipfile

import jax
import numpy as np
import pytest

from soda_jax.metrics import inception
from soda_jax.metrics.inception import InceptionV3, load_inception
from soda_jax.parallel import sharding
from soda_jax.tools.convert_inception import convert, main

# Features 0, 290, ..., 2030 of `images(2, 40, 56)` under `random_weights()`, by PyTorch 2.13.
PYTORCH_FEATURES = [
    [0.91936, 0.0, 0.07113, 0.05492, 0.03741, 1.40344, 0.085, 0.0],
    [0.90827, 0.0, 0.06311, 0.05174, 0.04472, 1.42712, 0.09874, 0.0],
]


@functools.cache
def random_weights():
    """Weights as in the file, PyTorch's names and layout, that keep the activations' size."""
    rng = np.random.RandomState(0)  # its stream is frozen, unlike that of default_rng
    state = {}
    for name, shape in inception.expected_shapes().items():
        name, shape = inception._torch_name(name), inception._torch_shape(shape)
        if name.endswith("conv.weight"):
            value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("bn.weight", "running_var")):
            value = rng.uniform(0.7, 1.3, shape)
        else:
            value = rng.standard_normal(shape) * 0.1
        state[name] = value.astype(np.float32)
    return state | {"fc.weight": np.zeros((1008, 2048), np.float32), "fc.bias": np.zeros(1008, np.float32)}


def images(count, height, width):
    return np.random.RandomState(1).uniform(-1, 1, (count, height, width, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The network with `random_weights()`, read from a converted file."""
    path = tmp_path_factory.mktemp("weights") / "inception.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "read_state_dict", lambda path: random_weights())
        weights, sha256 = inception.read_pth(__file__)
    inception.write_npz(path, weights, sha256)
    return load_inception(path)


def test_features_of_pytorch(network):
    features = network(images(2, 40, 56))
    assert features.shape == (2, 2048) and features.dtype == np.float32
    np.testing.assert_allclose(np.asarray(features)[:, ::290], PYTORCH_FEATURES, atol=1e-4)
    assert not network.is_standard


@pytest.mark.slow
def test_devices_and_batches(network):
    """One image at a time or five at once, on one device or on four."""
    batch = images(8, 32, 32)
    expected = np.asarray(network(batch))
    split = jax.device_put(batch, sharding.batch_sharding(sharding.make_mesh(jax.devices()[:4])))
    np.testing.assert_allclose(network(split), expected, atol=1e-5)
    np.testing.assert_allclose(network(batch[:1]), expected[:1], atol=1e-5)


@pytest.mark.parametrize("new_format", [False, True])
def test_parity_with_pytorch(tmp_path, new_format):
    """The PyTorch definition on PyTorch's own file: enlarged, shrunk, and images of the network's own size."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install torch)")
    from tests.metrics import torch_inception

    reference = torch_inception.InceptionV3().eval()
    state = {name: torch.from_numpy(value) for name, value in random_weights().items()}
    reference.load_state_dict(reference.state_dict() | state)
    path = tmp_path / "pt_inception.pth"
    torch.save(reference.state_dict(), path, _use_new_zipfile_serialization=new_format)
    network = load_inception(path)
    for height, width in ((40, 56), (299, 299), (330, 410)) if new_format else ((40, 56),):
        batch = images(2, height, width)
        with torch.no_grad():
            expected = reference(torch.from_numpy(batch.transpose(0, 3, 1, 2) / 2 + 0.5)).numpy()
        assert np.std(expected) > 0.1
        np.testing.assert_allclose(network(batch), expected, atol=1e-4)
        if height == 40:
            np.testing.assert_allclose(expected[:, ::290], PYTORCH_FEATURES, atol=1e-4)


def test_the_standard_weights_are_recognised():
    assert inception.Inception({}, "6726825d0af5f729").is_standard
    assert not inception.Inception({}, "").is_standard


def test_shapes_of_images(network):
    with pytest.raises(ValueError, match=r"images are uint8 \(2, 8, 8, 3\): give float \[B, H, W, 3\]"):
        network(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"images are float32 \(8, 8, 3\)"):
        network(np.zeros((8, 8, 3), np.float32))


def test_no_weights(tmp_path):
    with pytest.raises(ValueError, match='inception_weights is empty: get pt_inception.* release "fid_weights"'):
        load_inception("")
    with pytest.raises(ValueError, match="no file .*absent.pth: give the path of pt_inception"):
        load_inception(tmp_path / "absent.pth")


def torchvision(state):
    """ImageNet's weights in torchvision's layout: the same features' shapes, other classes, another head."""
    return state | {"fc.weight": np.zeros((1000, 2048)), "AuxLogits.fc.weight": np.zeros((1000, 768))}


def without_a_block(state):
    return {name: value for name, value in state.items() if not name.startswith("Mixed_7c.")}


def of_another_width(state):
    return state | {"Conv2d_1a_3x3.conv.weight": np.zeros((64, 3, 3, 3))}


def not_finite(state):
    return state | {"Mixed_5b.branch1x1.bn.bias": np.full(64, np.nan)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (torchvision, "another network than FID's .* 1 unknown .AuxLogits.fc.weight, ....; 1 of another shape"),
        (without_a_block, "another network than FID's .472 arrays expected: 45 missing .Mixed_7c"),
        (of_another_width, "another network than FID's .* 1 of another shape .Conv2d_1a_3x3"),
        (not_finite, "damaged: params/Mixed_5b/branch1x1/bn/bias is not finite"),
    ],
)
def test_weights_of_another_network(tmp_path, monkeypatch, change, message):
    path = tmp_path / "weights.pth"
    path.touch()
    monkeypatch.setattr(inception, "read_state_dict", lambda path: change(random_weights()))
    with pytest.raises(ValueError, match=message):
        load_inception(path)


def test_other_files(tmp_path):
    text = tmp_path / "page.pth"
    text.write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="page.pth is no state dict of tensors saved by PyTorch"):
        load_inception(text)
    other = tmp_path / "other.npz"
    np.savez(other, network="alexnet", kernel=np.zeros(3))
    with pytest.raises(ValueError, match="holds the network 'alexnet', not 'inception-2015-12-05'"):
        load_inception(other)
    np.savez(other, network=inception.NETWORK, kernel=np.zeros(3))
    with pytest.raises(ValueError, match="another network than FID's .* missing"):
        load_inception(other)
    other.write_bytes(other.read_bytes()[:-40])
    with pytest.raises(ValueError, match="other.npz"):
        load_inception(other)


def npz(path, changes=(), claims=(), method=zipfile.ZIP_DEFLATED):
    """A file of zeros for weights with some members' content changed, or some directory entries' sizes."""
    with zipfile.ZipFile(path, "w", method) as archive:
        texts = {"network": np.array(inception.NETWORK), "sha256": np.array("0")}
        zeros = {name: np.zeros(shape, np.float32) for name, shape in inception.expected_shapes().items()}
        for name, value in (texts | zeros).items():
            buffer = io.BytesIO()
            np.save(buffer, value)
            archive.writestr(f"{name}.npy", dict(changes).get(name, buffer.getvalue()))
        for name in set(dict(changes)) - set(texts | zeros):
            archive.writestr(f"{name}.npy", dict(changes)[name])
        for info in archive.infolist():
            info.file_size = dict(claims).get(info.filename, info.file_size)
    return path


def header(shape, descr="<f4"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


NAME, SHAPE = "params/Mixed_5b/branch1x1/bn/bias", (64,)


def test_a_compressed_file_is_read(tmp_path):
    assert not load_inception(npz(tmp_path / "a.npz")).is_standard


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (NAME, header(SHAPE) + bytes(100_000_000), "has 100,000,128 bytes, which are not"),
        (NAME, header(SHAPE), "has 128 bytes, which are not"),
        (NAME, header((10**13,)), "1 of another shape"),
        (NAME, header(SHAPE, "|V2000000000"), "holds .V2000000000, not floats"),
        (NAME, header(SHAPE, "|O") + bytes(512), "holds object, not floats"),
        (NAME, b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(100), "cannot be read"),
        (NAME, b"", "cannot be read"),
        ("other", bytes(100_000_000), "1 unknown .other"),
        ("network", header((10**13,), "<U20"), "holds the network 'unknown'"),
        ("network", header((), "<U500000000"), "holds the network 'unknown'"),
        ("network", header((), "<U20000000") + bytes(80_000_000), "holds the network 'unknown'"),
    ],
)
def test_small_files_that_ask_for_much_memory(tmp_path, name, content, message):
    path = npz(tmp_path / "a.npz", {name: content})
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"a\.npz .*{message}"):
        load_inception(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_sizes_in_the_directory_that_are_not_true(tmp_path):
    """What is read is what was announced, and does not match its checksum."""
    honest = len(header(SHAPE)) + 4 * 64
    path = npz(tmp_path / "a.npz", {NAME: header(SHAPE) + bytes(50_000_000)}, {f"{NAME}.npy": honest})
    with pytest.raises(ValueError, match="a.npz cannot be read: Bad CRC-32"):
        load_inception(path)


def test_other_ways_to_compress(tmp_path):
    with pytest.raises(ValueError, match="compressed as NumPy never does"):
        load_inception(npz(tmp_path / "a.npz", method=zipfile.ZIP_BZIP2))


def test_the_converter(tmp_path, monkeypatch, capsys):
    """The file it writes gives the network back; its errors are one line."""
    path, output = tmp_path / "weights.pth", tmp_path / "inception.npz"
    path.write_text("stands for the weights")
    monkeypatch.setattr(inception, "read_state_dict", lambda path: random_weights())
    main(str(path), str(output))
    said = capsys.readouterr().out
    assert "470 arrays, 21.8 million numbers" in said and "compare with no published FID" in said
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["inception.npz", "weights.pth"]
    images_ = images(1, 8, 8)
    shapes = jax.eval_shape(InceptionV3().apply, load_inception(output)._variables, images_)
    assert shapes.shape == (1, 2048)
    with pytest.raises(ValueError, match="output='inception.pth' must end with .npz"):
        convert(str(path), "inception.pth")
    with pytest.raises(SystemExit, match="error: weights='absent.pth': there is no such file; get pt_inception"):
        main("absent.pth", str(output))
