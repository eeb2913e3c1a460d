"""How fast image files become views: soda_jax's pipeline, and the same work by torchvision's transforms.

PyTorch and torchvision are only needed for the comparison, and imported only there.
"""

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from soda_jax.data import ViewSpec, load_dataset, train_batches
from soda_jax.data.datasets import Dataset
from soda_jax.data.pipeline import iterate

SOURCE_RESOLUTION, TARGET_RESOLUTION = 256, 128
RANDAUGMENT_RATE = 0.65  # the paper's, on ImageNet
BATCH_SIZE = 32
SIZES = ((375, 500), (256, 256))  # ImageNet's most frequent size; the sets that come resized
_BUFFERED = 8  # batches a worker process, more than either pipeline prepares ahead


@dataclasses.dataclass(frozen=True)
class Rate:
    """Images a second and core, measured several times."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{self.median:,.0f} ({min(self.values):,.0f}-{max(self.values):,.0f})"


@dataclasses.dataclass(frozen=True)
class Case:
    """What is measured: which images, and whether they are distorted beside crop and flip."""

    images: str
    root: str
    randaugment: bool

    def spec(self) -> ViewSpec:
        return ViewSpec(
            source_resolution=SOURCE_RESOLUTION,
            target_resolution=TARGET_RESOLUTION,
            crop_rate=1.0,
            randaugment_rate=RANDAUGMENT_RATE if self.randaugment else 0.0,
        )


def write_photographs(folder: pathlib.Path, count: int, height: int, width: int, seed: int = 0) -> None:
    """Writes JPEGs below `folder`/train that cost a decoder about what photographs of their size do.

    Noise whose spectrum falls with the frequency, as photographs' does, behind shapes with hard edges,
    with a sensor's grain; quality 90, about 2 bits a pixel.
    """
    rng = np.random.default_rng(seed)
    (folder / "train").mkdir(parents=True)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falloff = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width)) ** 1.3
    for number in range(count):
        phases = np.exp(2j * np.pi * rng.random((3, *falloff.shape)))
        brightness, *tints = np.fft.irfft2(phases * falloff, s=(height, width))
        planes = np.stack([brightness, brightness + 0.3 * tints[0], brightness + 0.3 * tints[1]], -1)
        picture = Image.fromarray((128 + 55 * planes / planes.std()).clip(0, 255).astype(np.uint8))
        pen = ImageDraw.Draw(picture, "RGBA")
        for _ in range(12):
            corners = rng.random((4, 2)) * (width, height)
            pen.polygon([tuple(corner) for corner in corners], fill=tuple(rng.integers(0, 256, 4).tolist()))
        grainy = np.asarray(picture) + rng.normal(0, 3, (height, width, 1))
        Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(folder / "train" / f"{number:04d}.jpg", quality=90)


def measure(batches: Iterator[Any], batch_size: int, count: int, workers: int) -> float:
    """Images a second and core in the next `count` batches, after a warm-up that empties the buffers.

    Without worker processes the seconds are those that this process computes, so that other load on the
    machine counts less; with them, those that pass.
    """
    for _ in range(1 + _BUFFERED * workers):
        next(batches)
    clock = time.perf_counter if workers else time.process_time
    begin = clock()
    for _ in range(count):
        next(batches)
    return batch_size * count / (clock() - begin) / max(workers, 1)


def soda_batches(dataset: Dataset, spec: ViewSpec, batch_size: int, workers: int) -> Iterator[Any]:
    """Our batches: by `workers` processes, or one after another in this thread."""
    batches = train_batches(dataset, spec, batch_size=batch_size, seed=0)
    return iterate(batches, num_workers=workers) if workers else (batches[step] for step in range(len(batches)))


def compare(cases: Sequence[Case], *, images: int, repeats: int, workers: int, torchvision: bool) -> list[dict]:
    """Measures every case by both pipelines in turn, `repeats` times, so that both see the same machine.

    Args:
        images: in a run, of each worker process; at least so many that buffers do not matter.

    Returns:
        For each case its fields, "soda_jax" and, if asked for, "torchvision": a `Rate`.
    """
    count = max(1 + _BUFFERED * workers, round(images * max(workers, 1) / BATCH_SIZE))
    pipelines: list[dict[str, Iterator[Any]]] = []
    for case in cases:
        dataset = load_dataset("folder", case.root, "train")
        opened = {"soda_jax": soda_batches(dataset, case.spec(), BATCH_SIZE, workers)}
        if torchvision:
            paths = [example["image"].name for example in dataset.get_many(range(len(dataset)))]
            opened["torchvision"] = _torchvision_batches(paths, case.randaugment, workers)
        pipelines.append(opened)
    values: list[dict[str, list[float]]] = [{name: [] for name in opened} for opened in pipelines]
    for _ in range(repeats):
        for opened, found in zip(pipelines, values, strict=True):
            for name, batches in opened.items():
                found[name].append(measure(batches, BATCH_SIZE, count, workers))
    for opened in pipelines:
        for batches in opened.values():
            batches.close()
    return [
        dataclasses.asdict(case) | {name: Rate(tuple(rates)) for name, rates in found.items()}
        for case, found in zip(cases, values, strict=True)
    ]


def why_no_torchvision() -> str | None:
    """None if the comparison can be made, else why not."""
    try:
        from torchvision import transforms  # noqa: F401
    except Exception as error:  # A torchvision that does not fit its PyTorch raises RuntimeError.
        return str(error)
    return None


def verdict(rate: float, cores: int, batch_size: int, step_seconds: float) -> str:
    """Says whether the data or the device holds training up.

    Args:
        rate: images a second and core.
        cores: that prepare batches.
        step_seconds: of the device, for a batch.
    """
    data_seconds = batch_size / (rate * cores)
    needed = batch_size / step_seconds / rate
    which = "1 core prepares" if cores == 1 else f"{cores} cores prepare"
    times = f"{which} a batch of {batch_size} in {data_seconds:.3g} s, the device steps in {step_seconds:.3g} s"
    if data_seconds > step_seconds:
        return f"{times}: the data is the bottleneck; {needed:.1f} cores would keep up."
    return f"{times}: the device is the bottleneck; it needs {needed:.1f} cores."


def _torchvision_batches(paths: Sequence[str], randaugment: bool, workers: int) -> Iterator[Any]:
    import torch
    from torchvision import transforms

    torch.set_num_threads(1)

    def transform(resolution: int) -> Callable:
        steps = [
            transforms.RandomResizedCrop(
                resolution, interpolation=transforms.InterpolationMode.BICUBIC, antialias=True
            ),
            transforms.RandomHorizontalFlip(),
        ]
        if randaugment:
            distort = transforms.RandAugment(
                num_ops=2, magnitude=9, num_magnitude_bins=11, interpolation=transforms.InterpolationMode.BILINEAR
            )
            steps.append(transforms.RandomApply([distort], p=RANDAUGMENT_RATE))
        return transforms.Compose([*steps, transforms.PILToTensor()])

    images = _TwoViews(paths, transform(SOURCE_RESOLUTION), transform(TARGET_RESOLUTION))
    loader = torch.utils.data.DataLoader(
        images, BATCH_SIZE, shuffle=False, num_workers=workers, drop_last=True, persistent_workers=bool(workers)
    )
    return _endless(loader)


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader


class _TwoViews:
    """Two views of each image file, as a PyTorch dataset of some length."""

    _LENGTH = 1 << 20

    def __init__(self, paths: Sequence[str], to_source: Callable, to_target: Callable):
        self._paths, self._to_source, self._to_target = paths, to_source, to_target

    def __len__(self) -> int:
        return self._LENGTH

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        with Image.open(self._paths[index % len(self._paths)]) as image:
            image = image.convert("RGB")
        return self._to_source(image), self._to_target(image)
