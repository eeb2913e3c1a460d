"""Keeps what compilers write to stderr while they load off the terminal; knows no jax, whose import loads some."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence


def is_plan(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for `--mode=plan`."""
    words = [argument.lstrip("-") for argument in arguments]
    return "mode=plan" in words or ("mode", "plan") in zip(words, words[1:], strict=False)


@contextlib.contextmanager
def loading(active: bool = True) -> Iterator[None]:
    """Holds back the process's stderr, the one of native code included, and shows it after all if an error is raised.

    The CUDA plugin and libtpu tell before their logging is set up, and so at every level, that no GPU or TPU is here.
    To a plan that is no news. What they log later keeps to TF_CPP_MIN_LOG_LEVEL, which becomes "only what ends the
    program" unless it is set: other errors are raised as well.

    Args:
      active: False does nothing.
    """
    if not active:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if sys.stderr is not None:
        sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            _restore(stderr)
            held.seek(0)
            os.write(2, held.read())
            raise
        else:
            _restore(stderr)


def _restore(stderr: int) -> None:
    if sys.stderr is not None:
        sys.stderr.flush()
    os.dup2(stderr, 2)
    os.close(stderr)
