"""launch/tpu_vm.sh, with a stand-in for gcloud; the commands that it sends to hosts run in a folder of this machine."""

import os
import pathlib
import signal
import subprocess
import time

import pytest

from tests.launch.stand_ins import wait_for

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


def finishes(stand, states, gcloud=GCLOUD, **environment):
    """(what gcloud was asked to do, standard error) of a run that ends well over these states of its slice."""
    (stand.folder / "states").write_text(states)
    stand.does(gcloud=gcloud)
    code, output, errors = stand.run("tpu_vm.sh", "run", "--config=a", "--workdir=/r", **SLICE | environment)
    assert code == 0, errors
    assert output.splitlines()[-1] == "launch/tpu_vm.sh: finished"
    return verbs([call for call in stand.calls if call[0] == "gcloud"]), errors


def test_tpu_vm_waits_while_the_state_is_unknown(stand):
    stand = stand("gcloud", "git")
    (stand.folder / "once").touch()
    done, errors = finishes(stand, "UNKNOWN\nNONE\nUNKNOWN\nACTIVE\nUNKNOWN\nUNKNOWN\nACTIVE\n")
    assert errors.count("the state of soda is unknown") == 4 and "refreshing your current auth tokens" in errors
    assert "delete" not in done and done.count("create") == done.count("scp") == 1


def test_tpu_vm_waits_while_its_host_does_not_answer(stand):
    stand = stand("gcloud", "git")
    (stand.folder / "silent").write_text("1\n2\n3\n")
    (stand.folder / "once").touch()
    done, errors = finishes(stand, "ACTIVE\n")
    assert errors.count("host 0 of soda does not answer") == 3 and "ssh: connection timed out" in errors
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
    (stand.folder / "fails").touch()
    # The copy to the slice that is made anew, shortly after the first start, fails once.
    fails = "*delete*) mv $FOLDER/fails $FOLDER/now ;; *scp*) [ ! -e $FOLDER/now ] || { rm $FOLDER/now; exit 1; } ;;"
    gcloud = f'case "$*" in {fails} esac\n{GCLOUD}'
    done, _ = finishes(stand, "ACTIVE\nACTIVE\nSUSPENDED\nNONE\nACTIVE\n", gcloud, RETRY_AFTER="600")
    assert done.count("delete") == 1 and done.count("scp") == 3


# In place of a host's Python: a run that takes its time and ends on SIGTERM (unless it hangs), and the tool that
# asks about it.
HOST_PYTHON = """#!/usr/bin/env bash
case "$*" in
  *soda_jax.main*) trap 'touch ~/stopped; [ -e ~/hangs ] || exit 0' TERM
    echo $$ > ~/own_pid
    for k in {1..200}; do sleep 0.1; done ;;
  *"soda_jax.tools.finished --workdir=/mnt/soda/a b") echo asked; [ -e ~/done ] ;;
esac
"""


def make_host(home):
    """A folder that stands for a host's home, with the stand-in for its Python."""
    python = home / "soda_jax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(HOST_PYTHON)
    python.chmod(0o755)


def on_host(home, command):
    # With pipes, as under sshd, whose session lasts until all that hold them are gone.
    return subprocess.run(
        ["bash", "-c", command], cwd=home, env=os.environ | {"HOME": str(home)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=10,
    )  # fmt: skip


def alive(pid):
    """Where nothing reaps orphans an ended one keeps its number, but has no command."""
    path = pathlib.Path(f"/proc/{pid}/cmdline")
    return path.exists() and path.read_bytes() != b""


@pytest.mark.skipif(not pathlib.Path("/proc/self/cmdline").exists(), reason="hosts find their processes in /proc")
@pytest.mark.parametrize("hangs", [False, True])
def test_tpu_vm_ends_what_an_earlier_start_left(stand, tmp_path, hangs):
    """By SIGTERM, and where that is not enough by a kill; what merely has its number is left alone."""
    stand = stand("gcloud")
    assert stand.run("tpu_vm.sh", "start", "--config=a", **SLICE, GRACE="2")[0] == 0
    (start,) = verbs(stand.calls)
    home = tmp_path / "home"
    make_host(home)
    if hangs:
        (home / "hangs").touch()
    own, pids = home / "own_pid", []
    try:
        for _ in range(2):
            own.unlink(missing_ok=True)
            started = on_host(home, start)
            assert (started.returncode, started.stdout, started.stderr) == (0, "", "")
            wait_for(lambda: own.exists() and own.read_text())
            pids.append(int(own.read_text()))
            assert (home / "soda_jax.pid").read_text() == own.read_text()
        assert (home / "stopped").exists()
        assert not alive(pids[0]) and alive(pids[1])
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)

    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (home / "soda_jax.pid").write_text(f"{stranger.pid}\n")
        own.unlink()
        assert on_host(home, start).returncode == 0
        wait_for(lambda: own.exists() and own.read_text())
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
        if own.exists():
            os.kill(int(own.read_text()), signal.SIGKILL)


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
    assert on_host(home, start).returncode != 0 and not (home / "soda_jax.pid").exists()
    assert on_host(home, look).stdout == "down\n"

    make_host(home)
    begin = time.monotonic()
    started = on_host(home, start)
    assert (started.returncode, started.stdout, started.stderr) == (0, "", "") and time.monotonic() - begin < 5
    own = home / "own_pid"
    wait_for(lambda: own.exists() and own.read_text())
    assert (home / "soda_jax.pid").read_text() == own.read_text()
    assert on_host(home, look).stdout == "up\n"
    assert on_host(home, stop).returncode == 0
    wait_for((home / "stopped").exists)

    # Where nothing reaps orphans the stopped one keeps its number; this one's is free.
    gone = subprocess.Popen(["true"])
    gone.wait()
    (home / "soda_jax.pid").write_text(f"{gone.pid}\n")
    assert on_host(home, look).stdout == "down\n"
    (home / "done").touch()
    assert on_host(home, look).stdout == "finished\n"


def test_tpu_vm_says_how_to_use_it(stand):
    stand = stand("gcloud")
    code, _, errors = stand.run("tpu_vm.sh")
    assert code == 2 and "create       asks for the slice" in errors
    code, _, errors = stand.run("tpu_vm.sh", "create")
    assert code == 1 and "set NAME, ZONE and TYPE" in errors
    code, _, errors = stand.run("tpu_vm.sh", "run", "--config=a", **SLICE)
    assert code == 2 and "--workdir=... is missing" in errors
