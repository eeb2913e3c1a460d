"""Over a hundred hostile inputs: no hang, no crash without a message, no code run, nothing written where it should not.

Images, archives, weights and saved configs go through the functions that read them, wrong command lines through `main`.
"""

import json
import os
import pathlib
import pickle
import shutil
import signal
import zipfile

import numpy as np
import pytest

import soda_jax
from soda_jax.data.builders import archives
from soda_jax.data.datasets.folder import ImageFolder
from soda_jax.data.decode import MAX_PIXELS, DecodeError, decode_image
from soda_jax.metrics.inception import load_inception
from soda_jax.metrics.lpips import load_backbone
from soda_jax.workdir import checksums
from soda_jax.workdir.checkpoint import ITEMS
from tests import command_lines, hostile_images, tiny, tiny_checkpoint
from tests.hostile_archives import ARCHIVES
from tests.metrics.test_torch_weights import tensor_pickle

ROOT = pathlib.Path(__file__).parents[1]
SECONDS = 60
MEBIBYTE = 1 << 20


@pytest.fixture(autouse=True)
def no_hang():
    def late(*_):
        raise TimeoutError(f"it took more than {SECONDS} seconds")

    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# Images

IMAGES = hostile_images.all_files()


@pytest.mark.parametrize("name", IMAGES)
def test_image(name, tmp_path):
    """Refused with its name, or (where no more is asked of it) decoded to no more than was promised."""
    (tmp_path / "x.png").write_bytes(IMAGES[name])
    _forget_peak()
    before = _memory("VmRSS")
    try:
        pixels = decode_image(tmp_path / "x.png")
    except DecodeError as error:
        assert "x.png" in str(error) and error.reason
    else:
        assert pixels.dtype == np.uint8 and pixels.size <= 3 * MAX_PIXELS
    assert _memory("VmHWM") - before < 700 * MEBIBYTE
    assert everything(tmp_path) == ["x.png"]


def _memory(field):
    """Bytes of resident memory: "VmRSS" now, "VmHWM" at its peak."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def _forget_peak():
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def test_pipes_devices_and_folders_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    for path in tmp_path.iterdir():
        with pytest.raises(DecodeError, match=path.name):
            decode_image(path)


def test_a_folder_of_hostile_images(tmp_path):
    """Beside good ones: each is named, and the good ones are served."""
    for number, content in enumerate(IMAGES.values()):
        (tmp_path / "images" / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / "train" / f"{number}.png").write_bytes(content[:MEBIBYTE])
    good = tmp_path / "images" / "train" / "good.png"
    good.write_bytes(hostile_images.valid("PNG"))
    dataset = ImageFolder(tmp_path / "images", "train", max_bad_share=1.0)
    served = 0
    for index in range(len(dataset)):
        try:
            served += dataset[index]["image"].size <= 3 * MAX_PIXELS
        except DecodeError as error:
            dataset.bad_files.report(error)
    assert served >= 1 and len(dataset.bad_files.names()) >= len(IMAGES) - 5
    assert str(good) not in dataset.bad_files.names()


# Archives


@pytest.mark.parametrize("name", ARCHIVES)
def test_archive(name, tmp_path):
    path = tmp_path / "archive"
    ARCHIVES[name](path)
    with pytest.raises((ValueError, OSError)) as error:
        archives.unpack(path, tmp_path / "into")
    assert str(error.value)
    assert everything(tmp_path) == ["archive", "into"]


def test_an_archive_that_would_fill_the_disk(tmp_path, monkeypatch):
    """A thousandth of it when packed."""
    with zipfile.ZipFile(tmp_path / "archive", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50 * MEBIBYTE))
    assert (tmp_path / "archive").stat().st_size < MEBIBYTE
    usage = shutil.disk_usage(tmp_path)._replace(free=10 * MEBIBYTE)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match="'zeros' unpacks to 52,428,800 bytes, and 10,485,760 are free"):
        archives.unpack(tmp_path / "archive", tmp_path / "into")


# Weights


class Attack:
    """What a pickle may call."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def _state_dict(path, content, name="archive/data.pkl"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
        archive.writestr("archive/version", "3")


def _object_array(path, marker):
    np.savez(path, weights=np.array([Attack(marker)], dtype=object))
    os.replace(path.with_name(path.name + ".npz"), path)


def _pointer_array(path, marker):
    """As of an array of void with one field, an object, whose address is in the file."""
    kind = b"cnumpy\ndtype\n(X\2\0\0\0V8\x89\x88tR(K\3X\1\0\0\0|NX\1\0\0\0f\x85}X\1\0\0\0f"
    kind += b"cnumpy\ndtype\nX\1\0\0\0O\x85RK\0\x86sK\x08K\1K\1tb"
    array = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\1btR(K\1K\1\x85" + kind
    path.write_bytes(b"\x80\3}X\1\0\0\0a" + array + b"\x89C\x08AAAAAAAAtbs.")


def _numpy_bomb(path, marker):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("network.npy", bytes(100 * MEBIBYTE))


WEIGHTS = {
    "pickle": lambda path, marker: path.write_bytes(pickle.dumps(Attack(marker))),
    "pickle in a dict": lambda path, marker: path.write_bytes(pickle.dumps({"a": Attack(marker)})),
    "old pickle": lambda path, marker: path.write_bytes(pickle.dumps(Attack(marker), protocol=0)),
    "pickle of eval": lambda path, marker: path.write_bytes(b"cbuiltins\neval\n(S'1+1'\ntR."),
    "pickle without end": lambda path, marker: path.write_bytes(pickle.dumps({"a": 1})[:-3]),
    "deep pickle": lambda path, marker: path.write_bytes(b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "PyTorch's zip": lambda path, marker: _state_dict(path, pickle.dumps({"a": Attack(marker)})),
    "PyTorch's zip without a pickle": lambda path, marker: _state_dict(path, b"", "archive/other"),
    "PyTorch's zip, TorchScript": lambda path, marker: _state_dict(path, b"", "archive/code/a.py"),
    "NumPy's object array": _object_array,
    "NumPy's array of an object for a pointer": _pointer_array,
    "NumPy's bomb": _numpy_bomb,
    "PyTorch's tensor of 40 GB": lambda path, marker: _state_dict(path, tensor_pickle((10**10,), (0,))),
    "pickle that stores at 2^32": lambda path, marker: path.write_bytes(b"\x80\x02}r\xff\xff\xff\xff."),
    "noise": lambda path, marker: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "empty": lambda path, marker: path.write_bytes(b""),
}


@pytest.mark.parametrize("load", ["inception", "lpips", "lpips unverified"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name, load, tmp_path):
    path, marker = tmp_path / "alexnet.ckpt", tmp_path / "marker"
    WEIGHTS[name](path, marker)
    with pytest.raises((ValueError, OSError), match="alexnet.ckpt"):
        if load == "inception":
            load_inception(path)
        else:
            load_backbone("alexnet", tmp_path, verify=load == "lpips")
    assert everything(tmp_path) == ["alexnet.ckpt"], "it ran code"


# Saved configs


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tiny_checkpoint.write(folder, tiny.get_config(), 5)
    return folder


def _nested(depth):
    node = {}
    for _ in range(depth):
        node = {"model": node}
    return node


CODE = "__import__('os').system('touch marker')"
CONFIGS = {
    "none": lambda config: None,
    "empty": lambda config: {},
    "a list": lambda config: [config],
    "a number for a section": lambda config: config | {"model": 3},
    "no model": lambda config: {key: value for key, value in config.items() if key != "model"},
    "deeply nested": lambda config: config | {"model": _nested(400)},
    "code for a name": lambda config: config | {"model": config["model"] | {"encoder": {"name": CODE}}},
    "code for a type": lambda config: config | {"model": config["model"] | {"dtype": CODE}},
    "a type of objects": lambda config: config | {"model": config["model"] | {"dtype": "object"}},
    "text for a size": lambda config: config | {"model": config["model"] | {"latent_dim": "many"}},
    "a negative size": lambda config: config | {"model": config["model"] | {"latent_dim": -16}},
    "a huge size": lambda config: config | {"model": config["model"] | {"latent_dim": 10**30}},
    "another size": lambda config: config | {"model": config["model"] | {"latent_dim": 32}},
    "a size that is no number": lambda config: config | {"data": config["data"] | {"resolution": float("nan")}},
    "Python's names": lambda config: config | {"model": {"__class__": "os", "__init__": CODE}},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_in_a_workdir(name, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, "run")
    folder = pathlib.Path("run/checkpoints/5")
    meta = json.loads((folder / "meta" / "metadata").read_text())
    (folder / "meta" / "metadata").write_text(json.dumps(meta | {"config": CONFIGS[name](meta["config"])}))
    checksums.write(folder, ITEMS, "5")  # whoever makes it up makes these up too
    before = everything(tmp_path)
    with pytest.raises((ValueError, OSError)) as error:
        soda_jax.load("run")
    assert str(error.value)
    assert everything(tmp_path) == before


ZERO = {"size": 0, "sha256": "0" * 64}
RECORDS = {
    "a device": {"files": {"ema/../../../../../../../../../../dev/zero": ZERO}},
    "an absolute name": {"files": {"/dev/zero": ZERO}},
    "a list of files": {"files": []},
    "a number for an entry": {"files": {"ema/a": 5, "meta/metadata": 5}},
    "text for a size": {"files": {"ema/a": ZERO | {"size": "0"}}},
    "text for a version": {"format_version": "1"},
    "a pipe": {},
}


@pytest.mark.parametrize("step", [None, 5])
@pytest.mark.parametrize("name", RECORDS)
def test_checksums_in_a_workdir(name, step, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, "run")
    folder = pathlib.Path("run/checkpoints/5")
    if name == "a pipe":
        (folder / "meta" / "metadata").unlink()
        os.mkfifo(folder / "meta" / "metadata")
    content = json.loads((folder / checksums.FILE).read_text()) | RECORDS[name]
    del content["digest"]
    (folder / checksums.FILE).write_text(json.dumps(content | {"digest": checksums._digest(content)}))
    with pytest.raises(ValueError, match=f"{checksums.FILE}|no regular file") as error:
        soda_jax.load("run", step)
    assert "damaged" in str(error.value)


def test_a_checkpoint_that_is_wrong_in_a_way_nobody_thought_of(saved, monkeypatch):
    monkeypatch.setattr(checksums, "damage", lambda *_: [].items())
    with pytest.raises(ValueError, match="holds a damaged checkpoint, or none of this package .AttributeError"):
        soda_jax.load(saved)


# Command lines

FLAGS = {
    "config is a folder": ["--config=configs"],
    "config is no code": ["--config=README.md"],
    "config is missing": ["--config=../../../nowhere.py"],
    "section for a number": ["--config.model=5"],
    "number too large": ["--config.train.batch_size=99999999999999999999999999"],
    "batch of zero": ["--config.train.batch_size=0"],
    "batch of less": ["--config.train.batch_size=-8"],
    "steps of less": ["--config.train.num_steps=-1"],
    "no number": ["--config.optim.learning_rate=nan"],
    "infinite rate": ["--config.optim.learning_rate=inf"],
    "negative seed": ["--config.seed=-1"],
    "code for a name": [f"--config.model.encoder.name={CODE}"],
    "code for a type": [f"--config.model.dtype={CODE}"],
    "path for a dataset": ["--config.data.name=../../../../etc"],
    "path for a split": ["--config.data.train_split=../../../etc/passwd"],
    "folder that is missing": ["--config.data.name=folder", "--config.data.root=/nowhere"],
    "folder that is a file": ["--config.data.name=folder", "--config.data.root=/etc/passwd"],
    "folder of devices": ["--config.data.name=folder", "--config.data.root=/dev"],
    "tuple of text": ["--config.model.denoiser.multipliers=('a', 'b')"],
    "tuple that is code": [f"--config.model.denoiser.multipliers=({CODE},)"],
    "empty tuple": ["--config.model.denoiser.multipliers=()"],
    "sources without end": ["--config.data.num_sources=-3"],
    "unknown mode": ["--mode=../../sh"],
    "negative devices": ["--cpu_devices=-1"],
    "unknown flag": ["--rm=-rf"],
    "workdir below a file": ["--workdir=/etc/passwd/run"],
    "workdir is a file": ["--workdir=/etc/passwd"],
    "workdir with a long name": ["--workdir=/tmp/" + "x" * 300],
    "workdir in /proc": ["--workdir=/proc/1/run"],
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """{name: (wait status, output)} of every command line, all run in a folder of their own."""
    folder = tmp_path_factory.mktemp("flags")
    (folder / "allowed").mkdir()
    lines = {}
    for name, arguments in FLAGS.items():
        given = {argument.partition("=")[0] for argument in arguments}
        usual = {"--config": f"--config={ROOT}/configs/quickstart.py", "--workdir": f"--workdir={folder}/allowed/run"}
        rest = [f"--config.data.root={folder}/allowed/data", "--config.train.num_steps=1"]
        first = [value for flag, value in usual.items() if flag not in given]
        lines[name] = first + [line for line in rest if line.partition("=")[0] not in given] + arguments
        # Overrides need the config, and a relative one is meant to be relative to the repository.
        lines[name].sort(key=lambda line: not line.startswith("--config="))
    return command_lines.ends(lines, folder), folder


@pytest.mark.parametrize("name", FLAGS)
def test_command_line(name, ends):
    status, output = ends[0][name]
    assert os.WIFEXITED(status), f"killed by signal {os.WTERMSIG(status)}:\n{output}"
    assert os.WEXITSTATUS(status) != 0, output
    assert "error: " in output.lower(), output
    assert "Traceback" not in output


def test_command_lines_write_nothing_but_their_workdir(ends):
    folder = ends[1]
    assert {path.name for path in folder.iterdir() if not path.name.startswith("lines")} == {"allowed"}
    assert not (ROOT / "marker").exists() and not pathlib.Path("/tmp/written").exists()


def test_over_a_hundred():
    assert sum(map(len, (IMAGES, ARCHIVES, WEIGHTS, WEIGHTS, CONFIGS, RECORDS, FLAGS))) > 100
