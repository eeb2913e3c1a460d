"""Metrics, images and films of a run: always JSON lines and files, and TensorBoard where TensorFlow is installed."""

import importlib.util
import json
import math
import os
import pathlib
import subprocess
from fractions import Fraction

import imageio_ffmpeg
import numpy as np
from PIL import Image


class MetricWriter:
    """Appends to WORKDIR/metrics.jsonl, writes WORKDIR/images/*.png, and TensorBoard events through CLU.

    Args:
      workdir: the run's folder.
      resume_step: lines of later steps, which a killed run wrote after its last checkpoint, are dropped.
      active: False (processes other than the first) writes nothing.
    """

    def __init__(self, workdir: str, resume_step: int = 0, active: bool = True):
        self._active = active
        self._tensorboard = None
        if not active:
            return
        self._workdir = pathlib.Path(workdir)
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._path = self._workdir / "metrics.jsonl"
        self._evaluated: set[int] = set()
        self._drop_after(resume_step)
        self._file = self._path.open("a", buffering=1)
        if all(importlib.util.find_spec(package) for package in ("tensorflow", "tensorboard")):
            from clu import metric_writers

            self._tensorboard = metric_writers.SummaryWriter(str(self._workdir))
        else:
            print("no TensorBoard events: TensorFlow is not installed (pip install -e '.[tensorboard]')")

    def _drop_after(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text().splitlines():
            try:
                row = json.loads(line)
                if row["step"] <= step:
                    kept.append(line + "\n")
                    self._evaluated |= {row["step"]} if "eval/loss" in row else set()
            except (ValueError, KeyError, TypeError):  # a line that a kill cut short, or that is no row of ours
                continue
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        os.replace(temporary, self._path)

    def has_evaluation(self, step: int) -> bool:
        """Whether metrics.jsonl held the evaluation at `step` when this session began; False in a silent process."""
        return self._active and step in self._evaluated

    def scalars(self, step: int, values: dict[str, float]) -> None:
        if not self._active:
            return
        numbers = {key: float(value) for key, value in values.items()}
        line = {"step": step} | {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        self._file.write(json.dumps(line) + "\n")
        if self._tensorboard:
            self._tensorboard.write_scalars(step, numbers)

    def image(self, step: int, name: str, image: np.ndarray) -> pathlib.Path | None:
        """Writes a uint8 [H, W, 3] image as WORKDIR/images/NAME_STEP.png and returns its path."""
        if not self._active:
            return None
        path = self._workdir / "images" / f"{name}_{step:08d}.png"
        save_png(path, image)
        if self._tensorboard:
            self._tensorboard.write_images(step, {name: image[None]})
        return path

    def text(self, step: int, name: str, text: str) -> None:
        if self._active and self._tensorboard:
            self._tensorboard.write_texts(step, {name: text})

    def close(self) -> None:
        if self._active:
            self._file.close()
            if self._tensorboard:
                self._tensorboard.close()


def save_png(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes a uint8 [H, W, 3] image, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    Image.fromarray(image).save(temporary, format="PNG")
    os.replace(temporary, path)


def save_gif(path: pathlib.Path, frames: list[np.ndarray], seconds: float) -> None:
    """Writes uint8 [H, W, 3] frames as an endless animation of `seconds` a round, whole or not at all."""
    # One palette for all frames, without dithering: otherwise flat areas would flicker.
    palette = Image.fromarray(np.concatenate(frames)).quantize(256)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    pictures[0].save(
        temporary,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 * seconds / len(frames)),
        loop=0,
    )
    os.replace(temporary, path)


def save_mp4(path: pathlib.Path, frames: list[np.ndarray], seconds: float) -> None:
    """Writes uint8 [H, W, 3] frames of one size as an H.264 film of `seconds`, whole or not at all.

    Sides that are odd get another row or column like the last: players expect colours at half the resolution (4:2:0).

    Raises:
      ValueError: there are no frames, they differ in shape, or `seconds` is not positive.
      RuntimeError: the encoder is missing, does not start or fails.
    """
    shapes = sorted({frame.shape for frame in frames})
    if len(shapes) != 1 or not seconds > 0:
        raise ValueError(
            f"frames of shapes {shapes} in {seconds} seconds: give frames of one shape, and a time above 0"
        )
    (height, width, _), rate = shapes[0], Fraction(len(frames) / seconds).limit_denominator(1000)
    film = np.pad(np.stack(frames), ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    given = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{film.shape[2]}x{film.shape[1]}",
        "-r",
        str(rate),
        "-i",
        "-",
    ]
    # The index at the front lets a page play the film before all of it has come.
    wanted = ["-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *given, *wanted, str(temporary)]
        subprocess.run(command, input=film.tobytes(), capture_output=True, check=True)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        temporary.unlink(missing_ok=True)
        said = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise RuntimeError(
            f"{path} cannot be encoded: {said.strip()[-500:]}; reinstall imageio-ffmpeg, which carries an encoder for "
            "most platforms, or name an ffmpeg with libx264 in the environment variable IMAGEIO_FFMPEG_EXE"
        ) from error
    os.replace(temporary, path)
