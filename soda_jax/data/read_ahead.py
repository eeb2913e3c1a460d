"""Batches read some steps before they are needed, so that data which fail leave time to stop in good order."""

import collections
from collections.abc import Iterator

from soda_jax.data.datasets.base import Example


class ReadAhead:
    """Iterates over `batches`, which it reads `count` ahead.

    Attributes:
      error: what reading ended with; batches that were read before it are still given, and only then is it raised.
    """

    def __init__(self, batches: Iterator[Example], count: int):
        self._batches, self._count = batches, count
        self._held: collections.deque[Example] = collections.deque()
        self._ended = False
        self.error: Exception | None = None

    def __iter__(self) -> "ReadAhead":
        return self

    def __next__(self) -> Example:
        while not self._ended and len(self._held) <= self._count:
            self._read()
        if self._held:
            return self._held.popleft()
        raise StopIteration if self.error is None else self.error

    def _read(self) -> None:
        try:
            self._held.append(next(self._batches))
        except StopIteration:
            self._ended = True
        except Exception as error:
            self._ended, self.error = True, error
