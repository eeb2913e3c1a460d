"""The command line: clear ends for a user's mistakes, and a run that is killed and started again."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from soda_jax import main
from soda_jax.workdir.checkpoint import latest_step, read_meta
from tests import command_lines, tiny

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 30


def start(*arguments, output=subprocess.PIPE):
    """`python -m soda_jax.main` with these arguments, compiling quickly."""
    environment = os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "soda_jax.main", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=output, stderr=output)


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    """Ends of wrong command lines, by name: (wait status, output)."""
    config, workdir = "--config=configs/quickstart.py", f"--workdir={tmp_path_factory.mktemp('wrong') / 'run'}"
    lines = {
        "field": (config, workdir, "--config.foo=1"),
        "nested field": (config, workdir, "--config.train.bach_size=1"),
        "type": (config, workdir, "--config.train.batch_size=many"),
        "no workdir": (config,),
        "no config": (workdir,),
        "no such config": ("--config=configs/nowhere.py", workdir),
        "mode": (config, workdir, "--mode=dream"),
        "variant": (config, workdir, "--variant=w/o layers"),
        "argument": (config, workdir, "train"),
        "values": (config, workdir, "--config.model.latent_dim=2", "--config.data.source_noise=-1.0"),
        "devices": (config, workdir, "--cpu_devices=3", "--config.train.batch_size=64"),
        "data": (config, workdir, "--config.data.name=cifar10", "--config.data.root=/nowhere"),
        "no checkpoint": (config, workdir, "--mode=sample"),
        "empty workdir": (config, "--workdir="),
        "blank workdir": (config, "--workdir= ", "--mode=evaluate"),
        "workdir of bytes": (config, b"--workdir=/tmp/run\xff"),
        "step of training": (config, workdir, "--step=best"),
        "no step": (config, workdir, "--mode=evaluate", "--step=last"),
        "origin of an evaluation": (config, workdir, "--mode=evaluate", "--init_from=scenes"),
        "model of a training": (config, workdir, "--model=scenes"),
        "no such origin": (config, workdir, "--init_from=no_such_model"),
        "no best step": (config, workdir, "--mode=sample", "--step=best"),
        "file as workdir": (config, f"--workdir={__file__}", "--mode=plan"),
    }
    lines = {name: [os.fsdecode(argument) for argument in arguments] for name, arguments in lines.items()}
    return command_lines.ends(lines, tmp_path_factory.mktemp("lines"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("field", "error: the config has no field foo"),
        ("nested field", "the config has no field bach_size. Did you mean batch_size"),
        ("type", "error: flag --config.train.batch_size=many: invalid literal for int"),
        ("no workdir", "error: flag --workdir=None: Flag --workdir must have a value"),
        ("no config", "error: flag --config=None: Flag --config must have a value"),
        ("no such config", "error: flag --config=configs/nowhere.py: there is no such file; our configs are afhq, "),
        ("mode", "error: flag --mode=dream: value should be one of <train|evaluate|sample|plan>"),
        ("variant", "error: no variant is called 'w/o layers'; they are w/o layer mask"),
        ("argument", "error: unexpected arguments: train"),
        ("values", "config.data.source_noise=-1.0: must be at least 0"),
        ("values", "config.model.latent_dim=2: is smaller than the denoiser's"),
        ("devices", "config.train.batch_size=64: must be a multiple of devices x grad_accum_steps = 3 x 1 = 3"),
        ("data", "dataset 'cifar10' is not prepared"),
        ("empty workdir", "error: --workdir='' is empty: give a path (is a shell variable in it unset?)"),
        ("blank workdir", "error: --workdir=' ' is empty: give a path"),
        ("workdir of bytes", "holds bytes that are not UTF-8"),
        ("file as workdir", "test_main.py is a file: give a folder"),
        ("step of training", "error: --step=best: --mode=train takes none; leave it out"),
        ("no step", "error: --step=last: give a checkpoint's step, or best"),
        ("model of a training", "error: --model=scenes: --mode=train takes none; leave it out; --init_from"),
        ("origin of an evaluation", "error: --init_from=scenes: --mode=evaluate takes none; leave it out"),
        (
            "no such origin",
            "error: --init_from=no_such_model: there is no folder 'no_such_model' here, and no model of",
        ),
        ("no best step", "holds no best checkpoint, as it was trained without config.train.monitor"),
        ("no checkpoint", "holds no checkpoint: train first with python -m soda_jax.main"),
    ],
)
def test_mistake_ends_with_its_message(mistakes, name, expected):
    status, errors = mistakes[name]
    assert os.waitstatus_to_exitcode(status) == 1
    assert expected in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("name", ["field", "nested field", "type"])
def test_a_wrong_field_ends_with_one_line(mistakes, name):
    lines = [line for line in mistakes[name][1].splitlines() if line and not line.startswith("Run with --helpshort")]
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "cores", "expected"),
    [
        (64, 1, 2, 2),
        (64, 1, 6, 4),
        (9, 1, 2, 1),
        (9, 1, 4, 3),
        (16, 4, 8, 4),
        (7, 1, 8, 7),
        (0, 0, 4, 1),
        (-8, 1, 4, 1),
    ],
)
def test_cpu_devices_divide_the_microbatch(batch_size, accumulation, cores, expected):
    config = tiny.get_config(train__batch_size=batch_size, train__grad_accum_steps=accumulation)
    assert main.cpu_devices(config, cores) == expected


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(undisturbed, killed and started again, output of the restart, step it was killed after)."""
    folder = tmp_path_factory.mktemp("runs")
    config = f"--config=tests/tiny_config.py:{folder / 'geometry'}"
    whole, killed = folder / "whole", folder / "killed"

    def train(workdir, **options):
        return start(config, f"--workdir={workdir}", "--cpu_devices=1", **options)

    process = train(whole)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    process = train(killed, output=subprocess.DEVNULL)  # nobody would empty a pipe
    deadline = time.monotonic() + 200
    while (latest_step(str(killed)) or 0) < 10 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    killed_after = latest_step(str(killed))
    process = train(killed)
    resumed_output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return whole, killed, output, resumed_output, killed_after


def test_killed_and_resumed_equals_undisturbed_bitwise(runs):
    whole, killed, _, resumed_output, killed_after = runs
    assert 10 <= killed_after < STEPS
    assert f"resuming from step {killed_after} of {killed}" in resumed_output
    assert latest_step(str(whole)) == latest_step(str(killed)) == STEPS
    with ocp.StandardCheckpointer() as checkpointer:
        for item in ("train", "ema"):
            path = pathlib.Path("checkpoints", str(STEPS), item)
            expected, found = (checkpointer.restore(workdir / path) for workdir in (whole, killed))
            tiny.assert_equal(found, expected)


def test_killed_and_resumed_writes_the_same_metrics(runs):
    whole, killed, *_ = runs

    def lines(workdir):
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]

    assert lines(killed) == lines(whole)
    assert [row["step"] for row in lines(whole) if "loss" in row] == list(range(5, STEPS + 1, 5))


def test_a_run_ends_with_its_table_and_its_grid(runs):
    whole, _, output, *_ = runs
    assert "floor_hue" in output and "chance" in output
    grid = whole / "images" / f"reconstructions_{STEPS:08d}.png"
    assert str(grid) in output and grid.is_file()
    assert read_meta(str(whole))[1]["data_position"] == STEPS
    assert read_meta(str(whole))[1]["targets"] == {"factors": [10, 10, 10, 8, 4, 15]}


def test_losses_are_numbers_that_fall(runs):
    rows = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
