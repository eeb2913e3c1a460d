"""hf://ORG/NAME against a stand-in of the hub on this machine, which the hub's own library talks to."""

import base64
import hashlib
import http.server
import json
import re
import sys
import threading
import urllib.parse

import pytest

import soda_jax
from soda_jax.sharing import hub
from soda_jax.tools import export as tool
from tests import tiny_exports
from tests.tools import test_export

COMMITS = ("a" * 40, "b" * 40)


class Hub(http.server.ThreadingHTTPServer):
    """Serves repositories: `files` of each commit by "ORG/NAME", whose last commit is main's; takes what is pushed."""

    def __init__(self):
        self.repositories, self.asked, self.token = {}, [], "hf_good"
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repository, folder, *more):
        """A commit of a folder's files, and of others given as (name, content)."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        commits = self.repositories.setdefault(repository, {})
        commits[COMMITS[len(commits)]] = files | dict(more)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.unquote(self.path.partition("?")[0])
        self.server.asked.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*found.groups())
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            if (commit := self._commit(found[1], found[2] or "main")) is not None:
                files = self.server.repositories[found[1]][commit]
                self._json({"id": found[1], "sha": commit, "siblings": [{"rfilename": name} for name in files]})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            if (commit := self._commit(found[1], found[2])) is not None:
                files = self.server.repositories[found[1]][commit]
                rows = [{"type": "file", "path": name, "size": len(f), "oid": "0"} for name, f in files.items()]
                self._json(rows)
        else:
            self._error(404, "unknown")

    def do_POST(self):
        body = self._body()
        self.server.asked.append(f"POST {self.path}")
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._error(403, "no rights")
        elif self.path == "/api/repos/create":
            sent = json.loads(body)
            name = f"{sent['organization']}/{sent['name']}" if sent.get("organization") else sent["name"]
            self.server.repositories.setdefault(name, {COMMITS[0]: {}})
            self._json({"url": f"{self.server.endpoint}/{name}"})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif found := re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path):
            commits = self.server.repositories[found[1]]
            files = dict(list(commits.values())[-1])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del files[line["value"]["path"]]
            commits[COMMITS[1]] = files
            url = f"{self.server.endpoint}/{found[1]}/commit/{COMMITS[1]}"
            self._json({"success": True, "commitOid": COMMITS[1], "commitUrl": url, "hookOutput": ""})
        else:
            self._error(404, "unknown")

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _commit(self, repository, revision):
        commits = self.server.repositories.get(repository)
        if commits is None:
            return self._error(404, "RepoNotFound")
        commit = list(commits)[-1] if revision == "main" else revision
        return commit if commit in commits else self._error(404, "RevisionNotFound")

    def _file(self, repository, revision, name):
        commit = self._commit(repository, revision)
        if commit is None:
            return
        content = self.server.repositories[repository][commit].get(name)
        if content is None:
            self._error(404, "EntryNotFound", commit)
        else:
            tag = hashlib.sha256(content).hexdigest()
            self._send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": commit})

    def _json(self, content):
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _error(self, status, code, commit=""):
        self._send(status, b"{}", {"X-Error-Code": code} | ({"X-Repo-Commit": commit} if commit else {}))

    def _send(self, status, content, headers):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    library = pytest.importorskip("huggingface_hub", minversion="1.0", reason="needs the extra hub")
    from huggingface_hub import constants, hf_api

    server = Hub()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("HF_TOKEN", server.token)
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hf_api.api, "endpoint", server.endpoint)
    assert library
    yield server
    server.shutdown()
    server.server_close()


def test_a_repository_is_a_model(server, export):
    """Of which only the files of an export are fetched."""
    server.add("org/tiny", export, ("pytorch_model.bin", b"pickle"), ("run.py", b"import os"))
    model = soda_jax.load("hf://org/tiny")
    assert model.step == 7 and len(model.examples) == 4
    assert not [line for line in server.asked if "pytorch_model" in line or "run.py" in line]
    assert any(line.endswith("/README.md") for line in server.asked)


def test_a_revision_is_kept_and_needs_no_network(server, export, tmp_path, monkeypatch):
    from huggingface_hub import constants

    server.add("org/tiny", export)
    tiny_exports.write(tmp_path / "later", step=8)
    server.add("org/tiny", tmp_path / "later")
    assert [soda_jax.load(f"hf://org/tiny{end}").step for end in ("", f"@{COMMITS[0]}", "@main")] == [8, 7, 8]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(server.asked)
    assert soda_jax.load("hf://org/tiny").step == 8
    assert len(server.asked) == asked
    with pytest.raises(
        ConnectionError, match="hf://org/other is not in the hub's cache, and the hub cannot be reached"
    ):
        soda_jax.load("hf://org/other")


def test_what_is_not_there(server, export, tmp_path):
    server.add("org/tiny", export)
    (tmp_path / "other").mkdir()
    server.add("org/other", tmp_path / "other", ("model.bin", b"x"))
    for address, kind, message in (
        ("hf://org/nothing", FileNotFoundError, "the hub has no such model, or it is private"),
        (f"hf://org/tiny@{'c' * 40}", FileNotFoundError, "no such branch, tag or commit"),
        ("hf://org/other", ValueError, "hf://org/other has no soda.json or lacks a file"),
        ("hf://tiny", ValueError, "give hf://ORG/NAME"),
        ("hf://org/tiny/soda.json", ValueError, "give hf://ORG/NAME"),
        ("hf://../..", ValueError, "give hf://ORG/NAME"),
    ):
        with pytest.raises(kind, match=message):
            soda_jax.load(address)


def test_a_foreign_description_and_a_damaged_file(server, export, tmp_path):
    server.add("org/foreign", export, ("soda.json", b'{"format": "other"}'))
    with pytest.raises(ValueError, match="soda.json is no description of a soda_jax export"):
        soda_jax.load("hf://org/foreign")
    weights = bytearray((export / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    server.add("org/damaged", export, ("model.safetensors", bytes(weights)))
    with pytest.raises(ValueError, match="model.safetensors was changed after it was written"):
        soda_jax.load("hf://org/damaged")


def test_pushed_and_loaded_again(server, export, tmp_path, capsys):
    """What the repository held of another export goes; what is no export's stays."""
    options = test_export.DEFAULTS | {"workdir": str(export), "push": "org/mine", "dtype": "float32"}
    server.add("org/mine", export, ("examples/0009.png", b"old"), ("LICENSE", b"mine"))
    tool.main(test_export.Options(options | {"out": str(tmp_path / "out")}))
    assert "pushed: soda_jax.load('hf://org/mine') loads it" in capsys.readouterr().out
    files = server.repositories["org/mine"][COMMITS[1]]
    assert "examples/0009.png" not in files and files["LICENSE"] == b"mine"
    assert files["model.safetensors"] == (export / "model.safetensors").read_bytes()
    assert len(soda_jax.load("hf://org/mine").examples) == 4


def test_who_may_not_push(server, export, tmp_path, monkeypatch):
    options = test_export.DEFAULTS | {"workdir": str(export), "push": "org/mine"}
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(SystemExit, match="error: --push=org/mine: no token for the hub is here: make a token"):
        tool.main(test_export.Options(options | {"out": str(tmp_path / "first")}))
    assert not (tmp_path / "first").exists()  # found before any work
    monkeypatch.undo()


def test_a_token_without_rights(server, export, tmp_path):
    server.token = "hf_another"
    options = test_export.DEFAULTS | {"workdir": str(export), "push": "org/mine", "out": str(tmp_path / "second")}
    with pytest.raises(
        SystemExit, match="(?s)the hub refuses it, as this token may not write there: .*second is whole"
    ):
        tool.main(test_export.Options(options))
    assert soda_jax.load(tmp_path / "second").step == 7


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        ValueError, match="hf://org/tiny needs the package huggingface_hub: pip install 'huggingface_hub"
    ):
        hub.download("hf://org/tiny")
