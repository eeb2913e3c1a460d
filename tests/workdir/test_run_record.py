"""What a run notes of itself, and the git revision that it names."""

import json
import os
import subprocess

import jax
import pytest

from soda_jax.workdir import provenance
from soda_jax.workdir.run_record import FILE, RunRecord, read_sessions
from tests import tiny


def git(folder, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "code.py").write_text("one")
    (tmp_path / "elsewhere").mkdir()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_sessions_accumulate(tmp_path):
    config = tiny.get_config()
    first = RunRecord(str(tmp_path), config, 0, jax.devices()[:2])
    assert read_sessions(str(tmp_path))[0]["last_step"] == 0  # written at once: a run may be killed any time
    first.update(400)  # and is killed here
    second = RunRecord(str(tmp_path), config, 400)
    second.update(800)
    second.finish(1000)
    one, two = read_sessions(str(tmp_path))
    assert (one["first_step"], one["last_step"], one["finished"]) == (0, 400, False)
    assert (two["first_step"], two["last_step"], two["finished"]) == (400, 1000, True)
    assert one["hardware"]["device_count"] == 2 and two["hardware"]["device_count"] == jax.device_count()
    assert one["hardware"]["platform"] == "cpu" and one["hardware"]["cpu_count"] >= 1
    assert one["versions"]["jax"] == jax.__version__
    assert one["config"] == json.loads(json.dumps(config.to_dict()))
    assert one["seconds"] >= 0 and one["started"].endswith("+00:00")
    assert os.listdir(tmp_path) == [FILE]


def test_other_processes_write_nothing(tmp_path):
    record = RunRecord(str(tmp_path / "run"), tiny.get_config(), 0, active=False)
    record.update(1)
    record.finish(2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", '{"format_version": 1, "sess', "[]", '{"sessions": 3}', '{"sessions": [3]}'])
def test_a_damaged_record_does_not_stop_a_run(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    assert read_sessions(str(tmp_path)) == []
    RunRecord(str(tmp_path), tiny.get_config(), 0).update(5)
    assert [entry["last_step"] for entry in read_sessions(str(tmp_path))] == [5]


def test_revision_of_a_checkout(checkout):
    found = provenance.git_revision(checkout / "package")
    head = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert found == {"revision": head.stdout.strip(), "modified": False}
    (checkout / "untracked").write_text("")
    assert provenance.git_revision(checkout / "package") == found
    (checkout / "package" / "code.py").write_text("two")
    assert provenance.git_revision(checkout / "package") == found | {"modified": True}


def test_revision_is_not_that_of_a_surrounding_project(checkout, tmp_path):
    installed = checkout / "elsewhere"
    (installed / "code.py").write_text("a package that someone installed here")
    assert provenance.git_revision(installed) is None


def test_revision_without_git_or_checkout(tmp_path, checkout, monkeypatch):
    assert provenance.git_revision(tmp_path / "missing") is None
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))  # as in a hook
    assert provenance.git_revision(checkout / "package") is not None
    monkeypatch.setenv("PATH", "")
    assert provenance.git_revision(checkout / "package") is None
