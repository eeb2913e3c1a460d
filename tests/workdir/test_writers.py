"""metrics.jsonl, images, and what a resumed run keeps of them."""

import json
import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from soda_jax.workdir import writers
from soda_jax.workdir.writers import MetricWriter


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_one_object_a_line(tmp_path, capsys):
    writer = MetricWriter(str(tmp_path / "run"))
    writer.scalars(10, {"loss": np.float32(0.5), "images_per_second": 3})
    writer.scalars(20, {"loss": float("nan"), "other": float("inf")})
    # Whole lines are on the disk before the writer is closed.
    assert lines(tmp_path / "run") == [
        {"step": 10, "loss": 0.5, "images_per_second": 3.0},
        {"step": 20, "loss": None, "other": None},
    ]
    writer.close()
    assert "TensorFlow is not installed" in capsys.readouterr().out


def test_resuming_drops_later_and_cut_lines(tmp_path):
    writer = MetricWriter(str(tmp_path))
    for step in (5, 10, 15):
        writer.scalars(step, {"loss": step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    resumed = MetricWriter(str(tmp_path), resume_step=10)
    resumed.scalars(15, {"loss": 0})
    resumed.close()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(5, 5), (10, 10), (15, 0)]


@pytest.mark.parametrize("line", ["[1]", "3", "null", '"step"', "{}", '{"loss": 1}', '{"step": null}', '{"step": "2"}'])
def test_resuming_drops_lines_that_are_no_rows(tmp_path, line):
    rows = '{"step": 1, "loss": 2}', '{"step": 2, "loss": 3}'
    (tmp_path / "metrics.jsonl").write_text("\n".join([rows[0], line, rows[1]]) + "\n")
    MetricWriter(str(tmp_path), resume_step=5).close()
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == list(rows)


def test_images_are_whole_pngs(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    writer = MetricWriter(str(tmp_path))
    path = writer.image(7, "grid", image)
    writer.close()
    assert path == tmp_path / "images" / "grid_00000007.png"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_other_processes_write_nothing(tmp_path):
    writer = MetricWriter(str(tmp_path / "run"), active=False)
    writer.scalars(1, {"loss": 1.0})
    assert writer.image(1, "grid", np.zeros((2, 2, 3), np.uint8)) is None
    writer.text(1, "config", "x")
    writer.close()
    assert not (tmp_path / "run").exists()


def test_animations_keep_colours_and_order(tmp_path):
    colours = [(255, 0, 0), (0, 200, 30), (12, 34, 56)]
    frames = [np.full((9, 7, 3), 255, np.uint8) for _ in colours]
    for frame, colour in zip(frames, colours, strict=True):
        frame[2:6, 1:5] = colour
    path = tmp_path / "new" / "turn.gif"
    writers.save_gif(path, frames, seconds=0.6)
    with Image.open(path) as animation:
        assert (animation.n_frames, animation.info["loop"], animation.info["duration"]) == (3, 0, 200)
        for number, frame in enumerate(frames):
            animation.seek(number)
            assert np.abs(np.asarray(animation.convert("RGB")).astype(int) - frame).max() <= 4
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("size", [(34, 48), (33, 47)])
def test_films_keep_colours_order_and_time(tmp_path, size):
    colours = [(255, 0, 0), (0, 200, 30), (12, 34, 56)]
    frames = [np.full((*size, 3), colour, np.uint8) for colour in colours]
    path = tmp_path / "new" / "walk.mp4"
    writers.save_mp4(path, frames, seconds=1.2)
    assert list(path.parent.iterdir()) == [path]
    assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (3, 1.2)
    film = imageio_ffmpeg.read_frames(str(path))
    told = next(film)
    assert (told["codec"], told["size"], told["fps"]) == ("h264", (48, 34), 2.5)
    assert told["pix_fmt"].startswith("yuv420p")
    for colour, frame in zip(colours, film, strict=True):
        shown = np.frombuffer(frame, np.uint8).reshape(34, 48, 3)
        assert np.abs(shown.astype(int) - colour).max() <= 8  # odd sides too are filled to the edge


@pytest.mark.parametrize("encoder", ["/nowhere/ffmpeg", sys.executable])
def test_without_an_encoder_there_is_no_film(tmp_path, monkeypatch, encoder):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", encoder)
    path = tmp_path / "walk.mp4"
    with pytest.raises(RuntimeError, match="(?s)walk.mp4 cannot be encoded: .*IMAGEIO_FFMPEG_EXE"):
        writers.save_mp4(path, [np.zeros((8, 8, 3), np.uint8)], seconds=1.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shapes", "seconds"), [((), 1.0), (((4, 4, 3), (4, 6, 3)), 1.0), (((4, 4, 3),), 0.0), (((4, 4, 3),), np.nan)]
)
def test_films_of_nothing_are_refused(tmp_path, shapes, seconds):
    with pytest.raises(ValueError, match="give frames of one shape, and a time above 0"):
        writers.save_mp4(tmp_path / "walk.mp4", [np.zeros(shape, np.uint8) for shape in shapes], seconds)


def test_tensorboard_gets_the_same_scalars(tmp_path, monkeypatch):
    written = []

    class Events:
        def write_scalars(self, step, values):
            written.append((step, values))

        def write_images(self, step, images):
            written.append((step, {name: image.shape for name, image in images.items()}))

        def write_texts(self, step, texts):
            written.append((step, texts))

        def close(self):
            written.append("closed")

    clu = type(sys)("clu")
    clu.metric_writers = type(sys)("clu.metric_writers")
    clu.metric_writers.SummaryWriter = lambda workdir: Events()
    monkeypatch.setitem(sys.modules, "clu", clu)
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: object())
    writer = MetricWriter(str(tmp_path))
    writer.scalars(3, {"loss": 0.25})
    writer.image(3, "grid", np.zeros((2, 4, 3), np.uint8))
    writer.text(3, "config", "{}")
    writer.close()
    assert written == [(3, {"loss": 0.25}), (3, {"grid": (1, 2, 4, 3)}), (3, {"config": "{}"}), "closed"]


def test_training_imports_neither_tensorflow_nor_torch():
    code = (
        "import sys, soda_jax.training.loop, soda_jax.main; "
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'tensorflow', 'torch', 'tensorboard'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
