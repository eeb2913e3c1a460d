"""The one table of datasets: what opens, checks, builds and describes them reads it."""

import importlib
import inspect
import subprocess
import sys
import types

import pytest

from soda_jax import build, data
from soda_jax.config import ConfigError, validate
from soda_jax.data.datasets import DATASETS, PREPARED, DatasetEntry, entry_of, table_rows
from tests import tiny


@pytest.mark.parametrize("entry", [*DATASETS.values(), PREPARED], ids=lambda entry: entry.opens)
def test_an_entry_lists_the_options_of_its_class(entry):
    module = importlib.import_module(f"soda_jax.data.datasets.{entry.module}")
    parameters = inspect.signature(getattr(module, entry.opens)).parameters.values()
    by_keyword = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    assert set(entry.options) == by_keyword and all(
        p.default is not p.empty for p in parameters if p.name in by_keyword
    )


def test_a_name_that_is_not_listed_is_of_a_prepared_set():
    assert entry_of("scenes") is DATASETS["scenes"]
    assert entry_of("cifar10") is entry_of("celeb_a:2.1.0") is PREPARED


def test_what_opens_a_dataset_is_imported_when_it_is_named():
    modules = sorted({f"soda_jax.data.datasets.{entry.module}" for entry in (*DATASETS.values(), PREPARED)})
    script = f"import sys, soda_jax.data; print(sorted(set({modules!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(("name", "has"), [("folder", "bad_files, max_bad_share"), ("cifar10", "cache_bytes, eyes")])
def test_an_option_that_it_has_not_is_answered_with_those_that_it_has(name, has):
    with pytest.raises(ValueError, match=f"^dataset '{name}' has no option colour, num_views; it has {has}.$"):
        data.load_dataset(name, None, "train", num_views=3, colour="red")


@pytest.fixture
def dots(monkeypatch):
    """A dataset by one entry: what it was opened with."""
    opened = []

    class Dots:
        def __init__(self, root, split, *, min_views=1, max_bad_share=0.0):
            opened.append((root, split, min_views, max_bad_share))

    module = types.ModuleType("soda_jax.data.datasets.dots")
    module.Dots = Dots
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = DatasetEntry("dots", "Dots", "Dots on paper.", "the folder of the papers", ("min_views", "max_bad_share"))
    monkeypatch.setitem(DATASETS, "dots", entry)
    return opened


def test_a_new_dataset_is_one_entry(dots, tmp_path):
    data.load_dataset("dots", tmp_path, "test", resolution=32, min_views=2)
    config = tiny.get_config(data__name="dots", data__root="papers", data__max_bad_share=0.25)
    validate(config, 8)
    build.dataset(config, "train", "bad_files.txt")
    config.data.view_policy, config.data.num_sources = "camera", 3
    build.dataset(config, "train")
    assert dots == [(tmp_path, "test", 2, 0.0), ("papers", "train", 1, 0.25), ("papers", "train", 4, 0.25)]
    assert ("`dots`", "Dots on paper.") in table_rows()


def test_messages_name_a_new_dataset(dots, tmp_path):
    with pytest.raises(ConfigError, match="config.data.root='': set the folder of the papers"):
        validate(tiny.get_config(data__name="dots"), 8)
    with pytest.raises(
        ConfigError, match="config.data.name='': set a dataset: scenes, .*, dots, or a prepared TFDS set"
    ):
        validate(tiny.get_config(data__name=""), 8)
    with pytest.raises(ValueError, match="datasets of our own are scenes, .*, dots, afhq, "):
        data.load_dataset("no_such_set", tmp_path, "train")


def test_the_table_has_a_row_for_each_and_one_for_all_others():
    assert [name for name, _ in table_rows()] == [*(f"`{name}`" for name in DATASETS), "any other name"]
    assert all(what.endswith(".") and what.count(". ") == 0 for _, what in table_rows())
