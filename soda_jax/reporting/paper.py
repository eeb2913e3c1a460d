"""The paper's figures, by dataset, with the table that each stands in.

Source: Hudson et al., "SODA: Bottleneck Diffusion Models for Representation Learning", arXiv 2311.17901. The available
text has lost the captions; tables 1-4, 6-8 and 10-12 are numbered by the text's references to them, 5 and 9 by their
place in between. Shares are in percent, as the paper prints them.
"""

import dataclasses

SODA = "SODA"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number of the paper.

    Attributes:
      metric: "probe/top1", "reconstruction/psnr", "novel_view3/fid", "dci/d", ...
      value: as printed.
      table: where it stands.
      variant: the row, `SODA` for the paper's own model, else an ablation.
      encoder: of that row, where it is not the one of the dataset's config.
    """

    metric: str
    value: float
    table: str
    variant: str = SODA
    encoder: str = ""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset of the paper, or one that others trained SODA on.

    Attributes:
      title: as the paper calls it.
      recipe: module in configs/ with the paper's settings, and its argument if it takes one.
      figures: what the paper reports.
      encoders: names that the paper's "ResNet-50" may mean beside the recipe's.
      free_latent_dim: the paper gives only the range 128-2048 of the latent's dimension.
      caution: holds for every figure of the set, or "".
    """

    title: str
    recipe: tuple[str, str | None]
    figures: tuple[Figure, ...]
    encoders: tuple[str, ...] = ()
    free_latent_dim: bool = False
    caution: str = ""


def _row(prefix: str, table: str, names: str, values: tuple[float, ...], **others: str) -> tuple[Figure, ...]:
    """One row of a table; `names` are the columns' metrics."""
    columns = zip(names.split(), values, strict=True)
    return tuple(Figure(f"{prefix}/{name}", value, f"Table {table}", **others) for name, value in columns)


_IMAGES = "psnr ssim fid lpips"
_DCI = "d c i"
PLAIN = "w/o layer modulation"


def _probe(variant: str, *values: float) -> tuple[Figure, ...]:
    return _row("probe", "1", "top1 top5", values, variant=variant)


def _celeba_ablation(variant: str, *values: float) -> tuple[Figure, ...]:
    others = {"variant": variant, "encoder": "resnet50"}
    first, last = values[:4], values[4:]
    figures = _row("probe", "11", "f1", first[:1], **others) + _row("dci", "11", _DCI, first[1:], **others)
    return figures + _row("reconstruction", "11", _IMAGES, last, **others)


def _disentanglement(title: str, recipe: tuple[str, str | None], mean: tuple, full: tuple, plain: tuple) -> Dataset:
    """A set of Table 7: D, C, I, PSNR, SSIM, FID, LPIPS, with and without layer modulation; `mean` is of Table 4."""
    figures: tuple[Figure, ...] = ()
    for variant, values in ((SODA, full), (PLAIN, plain)):
        figures += _row("dci", "7", _DCI, values[:3], variant=variant)
        figures += _row("reconstruction", "7", _IMAGES, values[3:], variant=variant)
    # As printed. (Table 4's 80.09 of 3DShapes without layer modulation is not the mean of Table 7's row, 89.89.)
    for variant, value in zip((SODA, PLAIN), mean, strict=False):
        figures += (Figure("dci/dci", value, "Table 4", variant),)
    return Dataset(title, recipe, figures, free_latent_dim=True)


def _views(title: str, recipe: str, one_source: tuple[float, ...], by_sources: dict[str, tuple[float, ...]]) -> Dataset:
    """A set of Table 3, from one source; `by_sources` are FIDs from 3, 5, 7 and 9 (Table 5), by aggregation."""
    figures = _row("novel_view1", "3", _IMAGES, one_source)
    for variant, values in by_sources.items():
        for count, value in zip((3, 5, 7, 9), values, strict=True):
            figures += (Figure(f"novel_view{count}/fid", value, "Table 5", variant),)
    caution = "" if recipe == "nmr" else "the paper's renderings are its own, and were not published"
    return Dataset(title, (recipe, None), figures, encoders=("resnet50x2",), caution=caution)


MEAN, STOCHASTIC = "mean aggregation", "stochastic conditioning"

DATASETS: dict[str, Dataset] = {
    "imagenet2012": Dataset(
        "ImageNet-1k",
        ("imagenet", None),
        (
            Figure("probe/top1", 72.24, "Table 9"),
            Figure("probe/top5", 90.5, "Table 1"),
            Figure("probe/top1", 69.1, "Table 1", "crop+flip"),
            *_probe("w/o bottleneck", 34.2, 52.9),
            *_probe("w/o modulation", 56.7, 78.5),
            *_probe("w/o novel views", 55.1, 75.5),
            *_probe("w/o noise schedule", 62.0, 82.9),
            *_row("reconstruction", "9", _IMAGES, (23.63, 0.931, 2.77, 0.191)),
            *_row("reconstruction", "9", _IMAGES, (21.33, 0.910, 5.33, 0.224), variant="w/o scale modulation"),
            *_row("reconstruction", "9", _IMAGES, (17.61, 0.800, 9.99, 0.377), variant=PLAIN),
            *_row("reconstruction", "9", _IMAGES, (13.78, 0.541, 15.24, 0.483), variant="sum modulation"),
            *_row("reconstruction", "9", _IMAGES, (13.57, 0.522, 16.68, 0.494), variant="concat modulation"),
            Figure("probe/top1", 70.31, "Table 9", "w/o scale modulation"),
            Figure("probe/top1", 68.10, "Table 9", PLAIN),
            Figure("probe/top1", 61.46, "Table 9", "sum modulation"),
            Figure("probe/top1", 59.87, "Table 9", "concat modulation"),
        ),
    ),
    "celeba_hq": Dataset(
        "CelebA-HQ",
        ("celeba_hq", None),
        (
            *_row("probe", "6", "f1", (72.65,)),
            *_row("dci", "6", _DCI, (79.93, 53.62, 90.44)),
            *_row("reconstruction", "6", _IMAGES, (18.78, 0.859, 9.54, 0.273)),
            Figure("dci/dci", 74.67, "Table 4"),
            Figure("dci/dci", 65.61, "Table 4", PLAIN, "resnet50"),
            *_celeba_ablation(SODA, 71.63, 73.90, 48.81, 87.64, 18.24, 0.842, 10.09, 0.275),
            *_celeba_ablation("w/o bottleneck", 58.89, 36.61, 26.12, 83.15, 27.29, 0.985, 6.61, 0.099),
            *_celeba_ablation("w/o modulation", 60.38, 64.51, 40.85, 84.11, 14.53, 0.734, 20.58, 0.332),
            *_celeba_ablation(PLAIN, 70.90, 67.25, 42.53, 87.06, 16.79, 0.821, 10.35, 0.288),
            *_celeba_ablation("w/o layer mask", 70.36, 68.41, 43.41, 87.45, 16.98, 0.820, 11.39, 0.285),
            *_celeba_ablation("w/o scale modulation", 69.65, 67.41, 44.84, 87.63, 16.53, 0.816, 10.49, 0.290),
            *_celeba_ablation("sum modulation", 68.31, 61.12, 40.53, 85.88, 16.71, 0.816, 17.95, 0.290),
            *_celeba_ablation("concat modulation", 67.58, 61.34, 40.67, 86.02, 16.67, 0.816, 17.35, 0.289),
        ),
    ),
    "gso": _views(
        "Google Scanned Objects",
        "gso",
        (24.97, 0.945, 1.51, 0.054),
        {
            SODA: (0.962, 0.797, 0.711, 0.653),
            MEAN: (2.290, 2.060, 2.183, 1.754),
            STOCHASTIC: (2.117, 1.360, 1.177, 1.228),
        },
    ),
    "shapenet": _views(
        "ShapeNet",
        "shapenet",
        (27.42, 0.947, 0.74, 0.039),
        {
            SODA: (0.491, 0.458, 0.378, 0.319),
            MEAN: (0.696, 0.667, 0.679, 0.742),
            STOCHASTIC: (0.706, 0.686, 0.679, 0.697),
        },
    ),
    "nmr": _views("NMR", "nmr", (28.71, 0.952, 0.81, 0.048), {}),
    "mpi3d/toy": _disentanglement(
        "MPI3D toy",
        ("mpi3d", "toy"),
        (),
        (87.38, 54.79, 84.78, 50.72, 0.999, 1.49, 0.014),
        (83.44, 55.65, 85.38, 50.21, 0.998, 2.64, 0.015),
    ),
    "mpi3d/realistic": _disentanglement(
        "MPI3D realistic",
        ("mpi3d", "realistic"),
        (),
        (85.19, 56.26, 77.78, 40.65, 0.996, 3.84, 0.069),
        (71.73, 51.07, 76.53, 39.40, 0.995, 3.42, 0.109),
    ),
    "mpi3d/real": _disentanglement(
        "MPI3D real",
        ("mpi3d", "real"),
        (),
        (81.19, 50.92, 77.69, 42.51, 0.997, 0.61, 0.006),
        (75.47, 51.30, 77.32, 41.03, 0.998, 1.57, 0.007),
    ),
    "mpi3d/complex": _disentanglement(
        "MPI3D complex",
        ("mpi3d", "complex"),
        (),
        (89.76, 56.98, 78.22, 43.18, 0.997, 0.44, 0.006),
        (86.55, 56.60, 77.43, 44.23, 0.998, 0.47, 0.007),
    ),
    "shapes3d": _disentanglement(
        "3DShapes",
        ("shapes3d", None),
        (94.08, 80.09),
        (98.60, 84.76, 98.88, 52.54, 0.9999, 0.32, 0.0002),
        (92.18, 78.21, 99.27, 51.75, 0.9997, 0.36, 0.0003),
    ),
    "smallnorb": _disentanglement(
        "SmallNORB",
        ("smallnorb", None),
        (64.78, 59.10),
        (72.60, 51.56, 70.19, 15.47, 0.734, 44.81, 0.235),
        (63.12, 45.82, 68.36, 16.06, 0.756, 47.90, 0.253),
    ),
    "cub": _disentanglement(
        "CUB-200-2011",
        ("cub", None),
        (56.98, 54.75),
        (65.40, 17.43, 88.10, 13.04, 0.344, 17.21, 0.492),
        (62.05, 14.35, 87.86, 12.96, 0.423, 20.30, 0.503),
    ),
}

# Percent, from its README.
UNOFFICIAL = "unofficial PyTorch version"
UNOFFICIAL_DETAILS = "a ResNet-18 after 800 epochs"
ELSEWHERE: dict[str, dict[str, float]] = {
    "cifar10": {"knn20": 80.4, "linear_probe": 80.0},
    "cifar100": {"knn20": 51.4, "linear_probe": 54.9},
    "tiny_imagenet": {"knn20": 34.8, "linear_probe": 38.2},
}


def figures_of(dataset: Dataset, metric: str) -> list[Figure]:
    """All rows of the paper that hold `metric`."""
    return [figure for figure in dataset.figures if figure.metric == metric]
