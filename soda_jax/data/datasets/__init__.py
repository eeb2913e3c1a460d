"""Where examples come from: `load_dataset` finds a dataset by name."""

import os

from soda_jax.data.datasets.base import Dataset, Labels

__all__ = ["Dataset", "Labels", "load_dataset"]


def load_dataset(
    name: str,
    root: str | os.PathLike | None,
    split: str,
    *,
    resolution: int | None = None,
    **options,
) -> Dataset:
    """Opens one split of a dataset.

    Args:
        name: "scenes" or "scenes_free" (rendered here), "folder" (a tree of image files), "multiview"
            (folders of objects seen from known cameras), or the name of any dataset that TFDS has
            prepared, "cifar10", "imagenet2012", "celeb_a:2.1.0".
        root: scenes: where to cache the geometry (None: the user's cache folder); folder, multiview:
            the tree; TFDS: its `data_dir` (None: TFDS's own default).
        split: "train", "validation", "test", or whatever the TFDS dataset calls its splits.
        resolution: side of rendered images. Stored images keep their size; views resize them.
        **options: of the dataset: `num_views` (scenes_free), `cache_bytes` (multiview, TFDS), `min_views` (multiview),
            `bad_files` and `max_bad_share` (folder, multiview).

    Raises:
        ValueError: unknown split, missing or unprepared data, or an option that does not fit,
            naming the remedy.
    """
    # Imported when named: TFDS alone takes seconds, and worker processes import this module.
    if name in ("scenes", "scenes_free"):
        from soda_jax.data.datasets import scenes

        kind = scenes.Scenes if name == "scenes" else scenes.FreeScenes
        return _open(name, kind, root, split, resolution=resolution or 64, **options)
    if name == "folder":
        from soda_jax.data.datasets import folder

        return _open(name, folder.ImageFolder, root, split, **options)
    if name == "multiview":
        from soda_jax.data.datasets import multiview

        return _open(name, multiview.MultiViewFolder, root, split, **options)
    from soda_jax.data.datasets import tfds_dataset

    return _open(name, tfds_dataset.TfdsDataset, name, root, split, **options)


def _open(name, kind, *args, **options):
    accepted = set(kind.__init__.__annotations__)
    unknown = sorted(set(options) - accepted)
    if unknown:
        raise ValueError(f"dataset {name!r} has no option {', '.join(unknown)}.")
    return kind(*args, **options)
