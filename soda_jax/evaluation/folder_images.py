"""All images below a folder, without splits or labels, as an evaluation shows them to an encoder."""

import collections
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from soda_jax.data.datasets.bad_files import BadFiles
from soda_jax.data.datasets.folder import EXTENSIONS, image_paths
from soda_jax.data.decode import DecodeError, EncodedImage
from soda_jax.data.views import ViewSpec, eval_views

_AHEAD = 2  # batches in the making while one is encoded


class FolderImages:
    """The images below a folder, in the order of their paths; the file types are those of the dataset `folder`.

    Args:
      root: the folder, searched through.
      spec: a run's views. Each image is one source, centre-cropped and resized as this says of evaluation; a model of
        several sources or of cameras sees one source, of an unknown camera.
      max_bad_share: share of the files that may be unreadable before an error stops all.
      bad_files: where to list these; None keeps the list in memory.
      setting: what sets `max_bad_share`, for messages.

    Attributes:
      files: paths relative to `root`, with "/".
      bad_files: those that could not be read so far.

    Raises:
      ValueError: there is no such folder, or no image in it.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        spec: ViewSpec,
        *,
        max_bad_share: float,
        bad_files: str | os.PathLike | None = None,
        setting: str = "config.data.max_bad_share",
    ):
        self._root = pathlib.Path(root).absolute()
        if not self._root.is_dir():
            raise ValueError(f"{self._root} is not a folder; give the one that holds the images")
        self.files = image_paths(self._root)
        if not self.files:
            raise ValueError(f"{self._root} holds no image of type {', '.join(EXTENSIONS)}")
        self._spec = dataclasses.replace(spec, policy="augment", num_sources=1, min_sources=0)
        self.bad_files = BadFiles(self._root, self.files, max_share=max_bad_share, path=bad_files, setting=setting)

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, batch_size: int, threads: int) -> Iterator[tuple[dict[str, np.ndarray], list[str]]]:
        """Every readable image once, decoded ahead by threads; memory does not grow with the number of files.

        Yields:
          (`source` uint8 [batch_size, 1, h, w, 3], `source_mask` bool [batch_size, 1] and `index` int32 [batch_size],
          the place among `files`; the files of its first rows). The last image is repeated in what is left of a batch.

        Raises:
          TooManyBadFilesError: more files than `max_bad_share` allows cannot be read.
          DatasetGoneError: the folder vanished.
        """
        with ThreadPoolExecutor(threads) as pool:
            waiting: collections.deque[list[Future]] = collections.deque()
            places = iter(range(len(self.files)))
            try:
                while True:
                    while len(waiting) <= _AHEAD and (some := list(itertools.islice(places, batch_size))):
                        waiting.append([pool.submit(self._source, place) for place in some])
                    if not waiting:
                        return
                    found = [future.result() for future in waiting.popleft()]
                    readable = [one for one in found if one is not None]
                    if readable:
                        yield self._batch(readable, batch_size)
            finally:  # whoever stops early waits for no more than what is being decoded
                pool.shutdown(wait=False, cancel_futures=True)

    def _source(self, place: int) -> tuple[int, np.ndarray] | None:
        """(`place`, the source view); None of a file that cannot be read, which is listed."""
        image = EncodedImage(os.path.join(self._root, self.files[place]))
        try:
            return place, eval_views({"image": image}, self._spec)["source"]
        except DecodeError as error:
            self.bad_files.report(error)
            return None

    def _batch(self, images: list[tuple[int, np.ndarray]], size: int) -> tuple[dict[str, np.ndarray], list[str]]:
        files = [self.files[place] for place, _ in images]
        images = images + images[-1:] * (size - len(images))
        places, sources = zip(*images, strict=True)
        batch = {"source": np.stack(sources), "index": np.array(places, np.int32)}
        return batch | {"source_mask": np.ones((size, 1), bool)}, files
