"""Archives of exports at an address, from a server of this test: fetched once, and only what was meant is unpacked."""

import hashlib
import http.server
import shutil
import threading

import pytest

import soda_jax
from soda_jax.sharing import downloads
from tests.hostile_archives import ARCHIVES


class Server(http.server.ThreadingHTTPServer):
    """Serves the files of a folder on this machine, and notes what was asked for."""

    def __init__(self, folder):
        self.folder, self.asked = folder, []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def address(self, name, digest=None):
        digest = hashlib.sha256((self.folder / name).read_bytes()).hexdigest() if digest is None else digest
        return f"http://127.0.0.1:{self.server_port}/{name}#sha256={digest}"


class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, directory=str(args[2].folder), **kwargs)

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "SCHEMES", ("https", "http"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "served").mkdir()
    server = Server(tmp_path / "served")
    yield server
    server.shutdown()
    server.server_close()


def cached(tmp_path):
    return [path.name for path in (tmp_path / "cache" / "soda_jax" / "models").glob("*")]


@pytest.mark.parametrize(("form", "ending"), [("zip", ".zip"), ("gztar", ".tar.gz")])
@pytest.mark.parametrize("in_a_folder", [True, False])
def test_an_archive_is_fetched_once(server, export, tmp_path, form, ending, in_a_folder):
    where = {"root_dir": export.parent, "base_dir": "model"} if in_a_folder else {"root_dir": export}
    shutil.make_archive(str(server.folder / "model"), form, **where)
    address = server.address(f"model{ending}")
    for _ in range(2):
        assert soda_jax.load(address).step == 7
    assert server.asked == [f"/model{ending}"]
    assert cached(tmp_path) == [address.rsplit("=", 1)[1]]
    server.shutdown()  # without a network, too
    assert len(soda_jax.load(address).examples) == 4


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://somewhere.org/model.zip", "add the archive's checksum, https://somewhere.org/model.zip#sha256=HEX"),
        ("https://somewhere.org/model.zip#sha256=12", "add the archive's checksum"),
        ("https://somewhere.org/model.zip#md5=12", "add the archive's checksum"),
        ("https://somewhere.org/model.pkl#sha256=" + "0" * 64, "give the address of a .zip, .tar.gz, .tgz archive"),
        ("http://somewhere.org/model.zip#sha256=" + "0" * 64, "nothing is fetched over http; give https://"),
    ],
)
def test_addresses_that_cannot_be_used(address, message, monkeypatch):
    def fetch(*_):
        raise AssertionError("it was fetched")

    monkeypatch.setattr(downloads, "_fetch", fetch)
    with pytest.raises(ValueError, match=message):
        soda_jax.load(address)


def test_another_file_than_was_meant(server, export, tmp_path):
    shutil.make_archive(str(server.folder / "model"), "zip", export)
    with pytest.raises(ValueError, match=f"has SHA-256 [0-9a-f]{{64}}, not {'0' * 64}: it is damaged or another file"):
        soda_jax.load(server.address("model.zip", "0" * 64))
    assert cached(tmp_path) == []


def test_what_is_not_there(server, tmp_path):
    with pytest.raises(FileNotFoundError, match="the server has no such file"):
        soda_jax.load(server.address("nothing.zip", "0" * 64))
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match="could not be fetched"):
        soda_jax.load(server.address("nothing.zip", "0" * 64))
    assert cached(tmp_path) == []


@pytest.mark.parametrize("name", ARCHIVES)
def test_hostile_archives(server, tmp_path, name):
    ARCHIVES[name](server.folder / "x.zip")
    before = sorted(path for path in tmp_path.rglob("*") if "cache" not in path.parts)
    with pytest.raises((ValueError, OSError)) as error:
        soda_jax.load(server.address("x.zip"))
    assert str(error.value)
    assert cached(tmp_path) == []
    assert before == sorted(path for path in tmp_path.rglob("*") if "cache" not in path.parts)


@pytest.mark.parametrize(("limit", "value"), [("MOST_BYTES", 5000), ("MOST_FILES", 3)])
def test_archives_beyond_all_measure(server, export, tmp_path, monkeypatch, limit, value):
    shutil.make_archive(str(server.folder / "model"), "zip", export)
    monkeypatch.setattr(downloads, limit, value)
    with pytest.raises(ValueError, match="more than"):
        soda_jax.load(server.address("model.zip"))
    assert cached(tmp_path) == []


def test_an_archive_of_something_else(server, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("no model")
    shutil.make_archive(str(server.folder / "model"), "zip", tmp_path / "other")
    with pytest.raises(ValueError, match="holds no export of soda_jax: there is no soda.json in it"):
        soda_jax.load(server.address("model.zip"))
    assert cached(tmp_path) == []
