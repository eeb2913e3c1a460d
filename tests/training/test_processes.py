"""Several processes on this machine, through launch/local.sh: they train as one, and end together."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from soda_jax.workdir.checkpoint import latest_step

ROOT = pathlib.Path(__file__).parents[2]
FIRST, STEPS = 4, 8
# A lost process is noticed at once by what waits for its data, and otherwise by its heartbeat.
SECONDS_TO_NOTICE = 90


def start(count, *flags):
    """launch/local.sh with `count` processes of one device each; a single process starts without it."""
    environment = os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
    }
    several = ["bash", "launch/local.sh", str(count)]
    command = several if count > 1 else [sys.executable, "-m", "soda_jax.main", "--cpu_devices=1"]
    return subprocess.Popen(
        [*command, *flags], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(count, *flags):
    """(standard output, standard error) of a run that must end well."""
    process = start(count, *flags)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return output, errors


def lines(workdir, key="loss"):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if key in row]


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Flags of a run in a folder, so many steps long."""
    folder = tmp_path_factory.mktemp("processes")

    def flags(name, steps, *more):
        return (
            f"--config=tests/tiny_config.py:{folder / 'geometry'}", f"--workdir={folder / name}",
            f"--config.train.num_steps={steps}", "--config.train.log_every=1", f"--config.train.eval_every={STEPS}",
            "--config.train.checkpoint_every=2", "--config.train.monitor=eval/loss", *more,
        )  # fmt: skip

    flags.folder = folder
    return flags


@pytest.fixture(scope="module")
def alone(flags):
    """The workdir of one process that was not disturbed."""
    finish(1, *flags("alone", STEPS))
    return flags.folder / "alone"


@pytest.fixture(scope="module")
def between(flags):
    """(workdir after the first steps by two processes, what they said)."""
    output, errors = finish(2, *flags("between", FIRST))
    return flags.folder / "between", output + errors


def test_two_processes_train_as_one(alone, between):
    expected, found = lines(alone)[:FIRST], lines(between[0])
    assert [row["step"] for row in found] == list(range(1, FIRST + 1))  # each step once: one process writes
    for key in ("loss", "grad_norm", "probe/loss"):
        np.testing.assert_allclose([row[key] for row in found], [row[key] for row in expected], rtol=1e-5)
    assert len(json.loads((between[0] / "run.json").read_text())["sessions"]) == 1
    said_by_second = [line for line in between[1].splitlines() if line.startswith("[1] ")]
    assert all("[Gloo]" in line for line in said_by_second)


def test_two_processes_name_the_best_checkpoint(between):
    (evaluation,) = lines(between[0], "eval/loss")
    found = json.loads((between[0] / "best.json").read_text())
    assert found == {"step": FIRST, "metric": "eval/loss", "value": evaluation["eval/loss"]}


@pytest.mark.slow
def test_two_processes_stop_together_when_they_no_longer_improve(flags):
    """No accuracy of a few images rises in every one of fifty evaluations."""
    watch = ("--config.train.monitor=probe/mean", "--config.train.patience=2", "--config.train.eval_every=2")
    output, _ = finish(2, *flags("until_converged", 100, *watch))
    (session,) = json.loads((flags.folder / "until_converged" / "run.json").read_text())["sessions"]
    assert (session["finished"], session["reason"]) == (True, "no improvement") and session["last_step"] < 100
    assert output.count(f"Training ended at step {session['last_step']} of 100: no improvement of probe/mean") == 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_another_number_of_processes_goes_on(flags, alone, between, count):
    name = f"on_by_{count}"
    shutil.copytree(between[0], flags.folder / name)
    finish(count, *flags(name, STEPS))
    expected, found = lines(alone), lines(flags.folder / name)
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    np.testing.assert_allclose([row["loss"] for row in found], [row["loss"] for row in expected], rtol=1e-5)
    end, other = (lines(workdir, "eval/loss")[-1] for workdir in (alone, flags.folder / name))
    for metric in ("eval/loss", "latent_use/own", "latent_use/other", "latent_use/none"):
        np.testing.assert_allclose(other[metric], end[metric], rtol=1e-5, err_msg=metric)


@pytest.mark.slow
def test_evaluation_and_samples_of_two_processes_are_those_of_one(flags, between):
    """The end of the two processes' part, once more by one process."""
    workdir = flags.folder / "one_again"
    shutil.copytree(between[0], workdir)
    for path in (workdir / "images").iterdir():
        path.unlink()
    finish(1, *flags("one_again", FIRST))
    expected, found = (lines(folder, "eval/loss")[-1] for folder in (workdir, between[0]))
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[k] for k in expected], [*expected.values()], rtol=1e-5)
    name = f"images/reconstructions_{FIRST:08d}.png"
    first, second = (np.asarray(Image.open(folder / name), np.int32) for folder in (workdir, between[0]))
    assert np.abs(first - second).max() <= 2 and first.std() > 10


EVALUATION = (
    "--mode=evaluate", "--config.eval.evaluators=('knn', 'linear_probe', 'reconstruction', 'diversity')",
    "--config.eval.diversity_seeds=2", "--config.eval.knn_k=(3,)",
    "--config.eval.train_examples=61", "--config.eval.test_examples=27", "--config.eval.probe_epochs=2",
    "--config.eval.reconstruction_examples=11", "--config.eval.baselines=False",
)  # fmt: skip


def figures(tree, prefix=""):
    """The numbers of nested dicts and lists, by their path."""
    if isinstance(tree, dict):
        tree = tree.items()
    elif isinstance(tree, list):
        tree = enumerate(tree)
    else:
        return {prefix: tree} if isinstance(tree, (int, float)) else {}
    return {path: value for key, node in tree for path, value in figures(node, f"{prefix}/{key}").items()}


@pytest.mark.slow
def test_modes_evaluate_and_sample_in_two_processes(flags, between):
    """Counts of examples that divide by nothing: each is counted once, on whichever process."""
    results, pictures = [], []
    for count in (1, 2):
        name = f"modes_{count}"
        workdir = flags.folder / name
        shutil.copytree(between[0], workdir)
        finish(count, *flags(name, FIRST, *EVALUATION))
        results.append(figures(json.loads((workdir / f"evaluation_{FIRST:08d}.json").read_text())["results"]))
        finish(count, *flags(name, FIRST, "--mode=sample"))
        pictures.append(np.asarray(Image.open(workdir / "samples" / f"grid_{FIRST:08d}_seed0.png"), np.int32))
    assert results[0].keys() == results[1].keys() and len(results[0]) > 3
    for key, value in results[0].items():
        np.testing.assert_allclose(results[1][key], value, rtol=1e-3, atol=1e-6, err_msg=key)
    assert np.abs(pictures[0] - pictures[1]).max() <= 2


def process_of(workdir, number):
    """The id of process `number` of the run in `workdir`."""
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:  # it ended meanwhile
            continue
        if f"--process_id={number}" in words and f"--workdir={workdir}" in words and "-m" in words:
            return int(folder.name)
    raise LookupError(f"no process {number} of {workdir}")


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/cmdline").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize("killed", [1, 0])
def test_a_lost_process_ends_the_others(flags, between, killed):
    """kill -9: the other ends with a message, and the next start goes on from the last whole checkpoint."""
    name = f"lost{killed}"
    workdir = flags.folder / name
    shutil.copytree(between[0], workdir)
    process = start(2, *flags(name, 1_000_000))
    deadline = time.monotonic() + 300
    while (latest_step(str(workdir)) or 0) <= FIRST + 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process_of(workdir, killed), signal.SIGKILL)
    begin = time.monotonic()
    output, errors = process.communicate(timeout=SECONDS_TO_NOTICE + 60)
    assert time.monotonic() - begin < SECONDS_TO_NOTICE
    assert process.returncode == 137  # of the first that ended
    assert f"process {killed} of 2 ended with code 137" in errors
    said = output + errors
    if killed == 1:
        assert "process 0 of 2 stops: another process of this run ended" in said
        assert f"go on from the newest whole checkpoint in {workdir}" in said
    else:  # process 0 holds JAX's coordination service, without which JAX itself ends the others
        assert "another process of this run ended" in said or "another task died" in said
    step = latest_step(str(workdir))
    output, _ = finish(1, *flags(name, step + 1))
    assert f"resuming from step {step} of {workdir}" in output


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/cmdline").exists(), reason="finds the processes in /proc")
def test_a_request_to_one_of_two_in_an_evaluation_stops_both(flags, alone, between):
    """Evaluations take nearly all of the time here."""
    workdir = flags.folder / "stopped"
    shutil.copytree(between[0], workdir)
    evaluating = ("--config.train.eval_every=1", "--config.eval.batch_size=2", "--config.eval.num_examples=0")
    saving = ("--config.train.checkpoint_every=1",)
    process = start(2, *flags("stopped", STEPS, *evaluating, *saving))
    deadline = time.monotonic() + 300
    while len(lines(workdir)) <= FIRST and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process_of(workdir, 1), signal.SIGTERM)
    begin = time.monotonic()
    output, errors = process.communicate(timeout=SECONDS_TO_NOTICE)
    assert process.returncode == 0, errors
    assert "SIGTERM: stopped after step" in output and time.monotonic() - begin < 30
    assert latest_step(str(workdir)) < STEPS
    finish(1, *flags("stopped", STEPS))
    expected, found = lines(alone), lines(workdir)
    np.testing.assert_allclose([row["loss"] for row in found], [row["loss"] for row in expected], rtol=1e-5)


@pytest.fixture(scope="module")
def trees(flags):
    """Two folders of the same images, one for each process, as (flags of a run on them, the folders)."""
    folders = [flags.folder / f"images_{number}" for number in (0, 1)]
    rng = np.random.default_rng(0)
    for split, number in ((split, number) for split in ("train", "test") for number in range(16)):
        image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
        for folder in folders:
            path = folder / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    settings = ("--config.data.name=folder", "--config.eval.batch_size=4", "--config.eval.num_examples=0")
    return lambda name, steps, *more: flags(name, steps, *settings, *more), folders


@pytest.fixture(scope="module")
def on_images(trees):
    """The losses of one process on images that stay."""
    flags, folders = trees
    named = flags("images_alone", 60, f"--config.data.root={folders[0]}", "--config.train.eval_every=60")
    finish(1, *named)
    return [row["loss"] for row in lines(pathlib.Path(named[1].partition("=")[2]))]


def start_two(flags, folders):
    """Two processes, each on images of its own; their outputs are apart."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    several = f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2"
    return [
        start(1, *flags, *several, f"--process_id={number}", f"--config.data.root={folder}")
        for number, folder in enumerate(folders)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("losing", "eval_every"), [((0,), 100), ((1,), 100), ((0, 1), 100), ((1,), 1)], ids=["0", "1", "both", "evaluation"]
)
def test_images_that_vanish_lose_no_step(trees, on_images, losing, eval_every):
    """Of one process's folder or of both: all save the same step, say why, and end; the next start goes on from it."""
    flags, folders = trees
    name = "gone_" + "_".join(map(str, losing)) + f"_{eval_every}"
    several = flags(
        name, 1_000_000, "--config.train.checkpoint_every=1000000", f"--config.train.eval_every={eval_every}"
    )
    workdir = pathlib.Path(several[1].partition("=")[2])
    processes = start_two(several, folders)
    deadline = time.monotonic() + 300
    while len(lines(workdir) if (workdir / "metrics.jsonl").exists() else ()) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    away = [(folders[number], folders[number].with_suffix(".away")) for number in losing]
    for folder, hidden in away:
        folder.rename(hidden)
    try:
        said = [process.communicate(timeout=SECONDS_TO_NOTICE) for process in processes]
    finally:
        for folder, hidden in away:
            hidden.rename(folder)
    assert [process.returncode for process in processes] == [1, 1], said
    step = latest_step(str(workdir))
    assert step >= 5 and lines(workdir)[-1]["step"] == step
    for number, (_, errors) in enumerate(said):
        failed = number if number in losing else losing[0]
        assert f"process {failed} of 2 could not go on" in errors and "Traceback" not in errors
        assert ("cannot be read any more" in errors) == (number in losing)
    if step + 2 <= len(on_images):
        finish(1, *flags(name, step + 2, f"--config.data.root={folders[0]}"))
        found = [row["loss"] for row in lines(workdir)]
        np.testing.assert_allclose(found, on_images[: step + 2], rtol=1e-5)


QUICKSTART = (
    "--config=configs/quickstart.py", "--config.train.log_every=1", "--config.optim.decay_steps=3000",
    "--config.eval.num_examples=64", "--config.sampling.num_images=4", "--config.sampling.num_steps=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def quickstart_alone(tmp_path_factory):
    """Losses of the first 24 steps of configs/quickstart.py."""
    folder = tmp_path_factory.mktemp("quickstart")
    finish(1, *QUICKSTART, f"--workdir={folder}", "--config.train.num_steps=24")
    return [row["loss"] for row in lines(folder)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_quickstart_by_several_processes(tmp_path, quickstart_alone, count):
    """Twenty steps by them, and four more by one process."""
    for processes, steps in ((count, 20), (1, 24)):
        finish(processes, *QUICKSTART, f"--workdir={tmp_path}", f"--config.train.num_steps={steps}")
    np.testing.assert_allclose([row["loss"] for row in lines(tmp_path)], quickstart_alone, rtol=1e-5)
