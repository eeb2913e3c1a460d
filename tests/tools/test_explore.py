"""The command that opens the explorer: what it loads, and what it answers to mistakes."""

import subprocess
import sys

import pytest

from soda_jax.tools import explore
from tests import tiny, tiny_checkpoint

DEFAULTS = {
    "model": "", "workdir": "", "step": "newest", "images": "", "host": "127.0.0.1", "port": None, "share": False,
}  # fmt: skip


class Options(dict):
    __getattr__ = dict.__getitem__


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tiny_checkpoint.write(folder, tiny.scenes_config(str(tmp_path_factory.mktemp("scenes"))), 5, 10)
    return folder


def test_a_run_and_its_images(workdir, tmp_path, capsys):
    found = explore.explorer(Options(DEFAULTS | {"workdir": str(workdir), "step": "5"}), tmp_path)
    assert found.model.step == 5 and found.title == workdir.name and len(found.held_out) > 12
    assert "held-out images of scenes (test)" in capsys.readouterr().out
    same = explore.explorer(Options(DEFAULTS | {"model": str(workdir)}), tmp_path)
    assert same.model.step == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "a", "workdir": "b"}, "--model=a and --workdir=b: give one of them"),
        ({"workdir": "RUN", "step": "last"}, "--step=last: give newest, best or a checkpoint's step"),
        ({"workdir": "RUN", "images": "nowhere"}, "--images=nowhere: there is no such file or folder"),
        ({"workdir": "nowhere"}, "--workdir=nowhere: there is no folder 'nowhere' here"),
        ({"model": "./nowhere"}, "nowhere holds no checkpoint"),
    ],
)
def test_mistakes(workdir, options, message, monkeypatch):
    monkeypatch.setattr(explore, "check_gradio", lambda: None)
    options = {name: str(workdir) if text == "RUN" else text for name, text in options.items()}
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        explore.main(Options(DEFAULTS | options))


def test_a_model_with_nothing_to_show(tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="needs the demo extra (pip install -e '.[demo]')")
    tiny_checkpoint.write(tmp_path, tiny.get_config(model__family="uncond"), 1)
    with pytest.raises(SystemExit, match="error: the explorer has nothing to show of this model, .*offers"):
        explore.main(Options(DEFAULTS | {"workdir": str(tmp_path)}))


def test_without_gradio_it_names_the_command():
    hide = "import sys; sys.modules['gradio'] = None; sys.argv = ['explore', '--workdir=x']; import runpy; "
    hide += "runpy.run_module('soda_jax.tools.explore', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, timeout=300)
    assert done.returncode and "needs gradio, which is not installed: pip install 'soda-jax[demo]'" in done.stderr
    assert "Traceback" not in done.stderr
