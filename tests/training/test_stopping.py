"""Requests to stop: noted while training, at once before there is anything to save, and never swallowed."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import pytest
from jax.experimental import multihost_utils

from soda_jax.training.stopping import Interrupted, StopSignals

ROOT = pathlib.Path(__file__).parents[2]
START = """
import hashlib, sys, time
from soda_jax.training.stopping import StopSignals
with StopSignals() as stop:
    print("ready", flush=True)
    {body}
"""
BODIES = {
    "in Python": "time.sleep(600)",
    # As compiling does: no Python for minutes.
    "in a library": "hashlib.pbkdf2_hmac('sha512', b'', b'', 2**27)",
}


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # Python handles it between two instructions


def test_noted_once_training_has_begun():
    with StopSignals() as stop:
        stop.begin()
        assert stop.requested() is None
        send()
        assert stop.requested() == stop.requested() == "SIGTERM"


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals():
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] != before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_what_may_be_broken_off_is():
    with StopSignals() as stop:
        stop.begin()
        with pytest.raises(Interrupted):
            with stop.interruptible():
                send(signal.SIGINT)
                time.sleep(10)
        assert stop.requested() == "SIGINT"
        with pytest.raises(Interrupted):  # and is not begun any more
            with stop.interruptible():
                raise AssertionError


def test_a_second_interrupt_ends_at_once():
    with StopSignals() as stop:
        stop.begin()
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_before_training_python_is_left_with_success():
    with pytest.raises(SystemExit) as ended:
        with StopSignals():
            send()
            time.sleep(10)
    assert ended.value.code == 0


def test_several_processes_stop_at_one_question(monkeypatch):
    """Asked by the loop and between the batches of an evaluation; what JAX answers after its point does not count."""
    asked = []

    def reached(number):
        asked.append(number)
        return number == 4

    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", reached)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    stop = StopSignals()
    assert stop.requested() is None
    with pytest.raises(Interrupted):
        with stop.interruptible():
            for _ in range(5):
                stop.check()
    assert asked == [1, 2, 3, 4] and stop.requested() == "SIGTERM" and asked[-1] == 4


def test_one_process_is_not_stopped_by_a_check(monkeypatch):
    with StopSignals() as stop:
        stop.begin()
        send()
        stop.check()


def test_elsewhere_than_in_the_main_thread_nothing_is_caught():
    found = []

    def enter():
        with StopSignals() as stop:
            found.append((signal.getsignal(signal.SIGTERM), stop.requested()))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(before, None)]


@pytest.mark.parametrize("where", BODIES)
def test_before_training_the_program_ends_within_seconds(where):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    code = START.format(body=BODIES[where])
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert output == "SIGTERM: stopped before the first step\n"
    finally:
        process.kill()


def test_before_training_the_program_ends_where_nobody_reads_its_output():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    code = START.format(body=BODIES["in a library"])
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout.readline() == "ready\n"
        process.stdout.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
