"""SIGTERM and SIGINT as requests to save and end.

The request takes effect after the step in progress; an evaluation in progress is broken off. On several processes,
JAX's coordination service hears SIGTERM on any of them and names the question of `requested` at which all of them stop.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds for Python to answer before anything is trained; compiling may keep it busy for minutes.
_START_PATIENCE = 3.0
# That JAX takes to hear of a signal (it looks once a second) and to tell the other processes.
_HEARD_SECONDS = 5.0


class Interrupted(BaseException):
    """A request to stop came during something that may be broken off."""


class StopSignals:
    """While entered, SIGTERM and SIGINT are noted; `requested` tells. A second SIGINT ends the program at once.

    Until `begin` there is nothing to save, and either signal ends the program with exit code 0. Outside the main
    thread, where Python cannot handle signals, nothing is caught.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._began = False
        self._may_interrupt = False
        self._several = jax.process_count() > 1
        self._questions, self._agreed = 0, False  # of several processes
        self._old: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._left = threading.Event()

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is not threading.main_thread():
            return self
        # With several processes SIGTERM belongs to JAX, whose handler passes it on to the other ones.
        for number in (signal.SIGINT,) if self._several else SIGNALS:
            self._old[number] = signal.signal(number, self._handle)
        if not self._several:
            self._watch()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old.clear()
        self._left.set()
        if self._pipe is not None:
            signal.set_wakeup_fd(self._old_wakeup)
            os.close(self._pipe[1])  # ends the thread
            self._pipe = None

    def begin(self) -> None:
        """From here on there is something to save."""
        self._began = True

    def request_all(self) -> None:
        """Makes all of several processes stop at one question, as SIGTERM to one does; returns when they have heard."""
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_HEARD_SECONDS)

    def requested(self) -> str | None:
        """The signal's name if the run is to stop now. Several processes must all ask at the same points."""
        if self._several:
            if not self._agreed:
                self._questions += 1
                self._agreed = multihost_utils.reached_preemption_sync_point(self._questions)
            return signal.SIGTERM.name if self._agreed else None
        return None if self._signal is None else signal.Signals(self._signal).name

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """What runs in it raises Interrupted when a request comes; with several processes, where it calls `check`."""
        if self._signal is not None and not self._several:
            raise Interrupted
        self._may_interrupt = True
        try:
            yield
        finally:
            self._may_interrupt = False

    def check(self) -> None:
        """Lets several processes break off together what is `interruptible`; one does not wait for it."""
        if self._several and self.requested():
            raise Interrupted

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self._signal = number
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        elif not self._began:
            with contextlib.suppress(OSError):  # where nobody reads our output any more
                print(f"{signal.Signals(number).name}: stopped before the first step", flush=True)
            sys.exit(0)
        elif self._may_interrupt:
            self._may_interrupt = False
            raise Interrupted

    def _watch(self) -> None:
        """Ends the program even while Python waits for a compilation, if there is nothing to save yet."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        self._old_wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._pipe = read, write
        threading.Thread(target=self._end_early, args=(read,), daemon=True).start()

    def _end_early(self, read: int) -> None:
        with os.fdopen(read, "rb", buffering=0) as pipe:
            while number := pipe.read(1):
                if number[0] not in SIGNALS or self._began:
                    continue
                if not self._left.wait(_START_PATIENCE) and not self._began:
                    try:
                        print(f"{signal.Signals(number[0]).name}: stopped before the first step", flush=True)
                    finally:
                        os._exit(0)
