"""Reading ahead: an error is known early, and takes no batch that came before it."""

import itertools

import pytest

from soda_jax.data.read_ahead import ReadAhead


class Batches:
    """The numbers from 0 on, then an error; counts what was read."""

    def __init__(self, length):
        self.length, self.read = length, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.read == self.length:
            raise OSError("the disk is gone")
        self.read += 1
        return self.read - 1


def test_an_error_is_known_while_batches_are_left():
    batches = ReadAhead(Batches(5), 3)
    assert [next(batches), batches.error] == [0, None]
    assert [next(batches), batches.error] == [1, None]
    assert next(batches) == 2 and isinstance(batches.error, OSError)
    assert [next(batches), next(batches)] == [3, 4]
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            next(batches)


def test_so_many_are_read_ahead():
    for count in (0, 2):
        dataset = Batches(100)
        batches = ReadAhead(dataset, count)
        assert dataset.read == 0  # nothing before it is asked for
        for number in range(3):
            assert next(batches) == number and dataset.read == number + 1 + count


def test_the_end_is_no_error():
    batches = ReadAhead(itertools.islice(Batches(100), 3), 5)
    assert list(batches) == [0, 1, 2] and batches.error is None
