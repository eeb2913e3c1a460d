"""What the data section of a config reaches: the source and the views."""

import jax
import pytest
from PIL import Image

from soda_jax import build
from soda_jax.configs import folder
from soda_jax.data import train_batches
from soda_jax.data.datasets.bad_files import TooManyBadFilesError
from soda_jax.training.loop import bad_files_path


@pytest.fixture
def config(tmp_path):
    """Twelve images in two classes, of which two are broken."""
    for number in range(12):
        path = tmp_path / "images" / "train" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (number, 0, 0)).save(path)
        if number < 2:
            path.write_bytes(path.read_bytes()[:50])
    config = folder.get_config("small")
    config.data.root = str(tmp_path / "images")
    config.data.max_bad_share = 0.2
    return config


def test_unreadable_files_are_listed_in_the_workdir(config, tmp_path):
    workdir = str(tmp_path / "run")
    dataset = build.dataset(config, "train", bad_files_path(workdir))
    batch = train_batches(dataset, build.view_spec(config), batch_size=12, seed=0)[0]
    assert batch["target"].shape == (12, 32, 32, 3) and batch["label"].max() == 1
    lines = (tmp_path / "run" / "bad_files.txt").read_text().splitlines()
    assert sorted(line.split("\t")[0].rpartition("/")[2] for line in lines) == ["0.png", "1.png"]


def test_the_set_share_is_the_limit(config):
    config.data.max_bad_share = 0.1
    batches = train_batches(build.dataset(config, "train"), build.view_spec(config), batch_size=12, seed=0)
    with pytest.raises(TooManyBadFilesError, match="2 of 12"):
        batches[0]


def test_other_processes_keep_lists_of_their_own(monkeypatch):
    assert bad_files_path("/run") == "/run/bad_files.txt"
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    assert bad_files_path("/run") == "/run/bad_files_2.txt"


def test_view_fields_reach_the_views(config):
    config.data.view_policy = "class"
    config.data.num_sources = 3
    config.data.min_sources = 2
    config.data.randaugment_rate = 0.65
    config.data.randaugment_ops = 4
    config.data.randaugment_magnitude = 7.0
    config.data.randaugment_std = 0.25
    spec = build.view_spec(config)
    assert (spec.policy, spec.num_sources, spec.min_sources) == ("class", 3, 2)
    assert (spec.randaugment_rate, spec.randaugment_ops) == (0.65, 4)
    assert (spec.randaugment_magnitude, spec.randaugment_std) == (7.0, 0.25)
    batches = train_batches(build.dataset(config, "train"), spec, batch_size=12, seed=0)
    assert {batches[step]["source"].shape[1] for step in range(10)} == {2, 3}
