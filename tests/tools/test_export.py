"""The command that exports a run: `soda_jax.load` of what it wrote gives the run's features, classes and directions."""

import hashlib
import itertools
import json
import os
import shutil

import jax
import numpy as np
import pytest
import yaml
from PIL import Image

import soda_jax
from soda_jax.data.datasets import Labels
from soda_jax.latents.directions import measured
from soda_jax.latents.pca import fit_pca
from soda_jax.tools import export as tool
from soda_jax.workdir import directions as files
from tests import hostile_exports, objects, tiny, tiny_checkpoint
from tests.reporting import made_runs

STEP = 5
CLASSES = ("cat", "dog", "`a|b`\n---\nlicense: mit")
LABELS = {"label": Labels((3,), ("label",), CLASSES), "attributes": tiny.LABELS["attributes"]}
PRIVATE = "/home/somebody/data"
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
DEFAULTS = {
    "step": "newest", "dtype": "float16", "license": "", "examples": None, "example_views": 4, "example_license": "",
    "example_credit": "", "push": "", "evaluation": (),
}  # fmt: skip


class Options(dict):
    __getattr__ = dict.__getitem__


def run(workdir, out, **options):
    tool.main(Options(DEFAULTS | {"workdir": str(workdir), "out": str(out)} | options))
    return out


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with a probe, directions, a prior and an evaluation."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny.get_config(probe__kind="label", data__root=PRIVATE)
    tiny_checkpoint.write(folder, config, STEP, labels=LABELS)
    model = soda_jax.load(folder)
    codes = np.random.default_rng(1).standard_normal((20, model.latent_dim))
    place = files.folder(folder, STEP)
    tie = {"sections": None, "num_sections": model.num_sections, "model": model.weights_digest}
    files.save(measured(np.ones(model.latent_dim), codes, name="up", kind="pca", source="here", **tie), place)
    files.save_prior(fit_pca(codes), place, model=model.weights_digest, count=len(codes))
    measuredly = {"model": "SODA", "weights": model.weights_digest, "format_version": 2}
    made_runs.evaluation(folder, STEP, made_runs.NEW_RESULTS, **measuredly)
    return folder


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    return run(workdir, tmp_path_factory.mktemp("exports") / "float16")


@pytest.fixture(scope="module")
def models(workdir, exported):
    return soda_jax.load(workdir), soda_jax.load(exported)


def test_features_are_the_runs_within_the_stated_precision(models):
    ours, theirs = (model.encode(IMAGES) for model in models)
    assert 0 < np.linalg.norm(theirs - ours) < 1e-2 * np.linalg.norm(ours)
    assert models[1].step == STEP and models[1].weights_digest == models[0].weights_digest
    images = [model.reconstruct(IMAGES).astype(int) for model in models]
    assert np.abs(images[0] - images[1]).mean() < 3  # of 255: sampled from the same noise


def test_float32_is_the_run_itself(workdir, tmp_path, models, capsys):
    folder = run(workdir, tmp_path / "exact", dtype="float32")
    tiny.assert_equal(jax.device_get(soda_jax.load(folder).variables), jax.device_get(models[0].variables))
    assert "its features differ from the run's by 0, relative to their size" in capsys.readouterr().out


def test_export_load_export_is_the_same_bit_by_bit(exported, tmp_path):
    assert contents(run(exported, tmp_path / "again")) == contents(exported)


def test_classes_are_those_of_the_probe(models):
    """By the equations of E.1: normalised without parameters, one linear layer, a softmax."""
    probe = tiny_checkpoint.random_probe(models[0].latent_dim, 3, seed=STEP)
    norm, head = probe["batch_stats"]["norm"], probe["params"]["head"]
    for model in models:
        logits = (model.encode(IMAGES) - norm["mean"]) / np.sqrt(norm["var"] + 1e-5) @ head["kernel"] + head["bias"]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        found = model.classify(IMAGES)
        assert list(found) == ["label"] and found["label"].classes == CLASSES
        np.testing.assert_allclose(found["label"].probabilities, powers / powers.sum(1, keepdims=True), atol=1e-5)
        assert found["label"].best == [CLASSES[i] for i in logits.argmax(axis=1)]


def test_directions_and_the_prior_come_along(models):
    ours, theirs = (model.directions["up"] for model in models)
    np.testing.assert_array_equal(ours.vector, theirs.vector)
    assert models[1].sample_prior(2, sampling_steps=1).shape == (2, 8, 8, 3)


def test_nothing_tells_of_the_machine(exported):
    for content in contents(exported).values():
        assert PRIVATE.encode() not in content
    assert soda_jax.load(exported).config.data.root == ""


def test_the_card_is_what_the_hub_reads(exported):
    """Its head is YAML between lines of ---, which no name of a class can close."""
    _, head, text = (exported / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(head)
    assert head.keys() == {"library_name", "pipeline_tag", "tags", "model-index"}
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"] == {"type": "synthetic", "name": "synthetic", "split": "test"}
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["linear_probe/label"] == 0.7012 and values["reconstruction/psnr"] == 21.5
    assert "70.12 \\[69.71, 70.55\\]" in text and "3.12 \\[3.00, 3.25\\]" in text  # and the baseline beside it
    assert 'soda_jax.load("FOLDER")' in text and "model.classify(images)" in text
    assert "python -m soda_jax.main --config=" in text and "--mode=evaluate --model=FOLDER" in text
    assert "\n---" not in text and "label: 3 classes (cat, dog, " in text


def test_a_license_and_another_precision_of_an_export(exported, tmp_path):
    folder = run(exported, tmp_path / "licensed", license="apache-2.0", dtype="bfloat16")
    head = yaml.safe_load((folder / "README.md").read_text().split("---\n", 2)[1])
    assert head["license"] == "apache-2.0"
    assert soda_jax.load(folder).meta["about"]["license"] == "apache-2.0"


def test_a_run_without_probe_or_evaluation(tmp_path, capsys):
    tiny_checkpoint.write(tmp_path / "run", tiny.get_config(), 1, 2)
    folder = run(tmp_path / "run", tmp_path / "out", step="1")
    assert "without a probe: classify needs a probe, and this model was trained without one" in capsys.readouterr().out
    model = soda_jax.load(folder)
    assert model.step == 1 and "This checkpoint was not evaluated." in (folder / "README.md").read_text()
    for one in (model, soda_jax.load(tmp_path / "run")):
        with pytest.raises(ValueError, match="classify needs a probe"):
            one.classify(IMAGES)


def test_classes_by_number_where_a_checkpoint_of_an_earlier_release_has_no_names(workdir, tmp_path):
    folder = shutil.copytree(workdir, tmp_path / "run")
    model = soda_jax.load(folder)
    model.meta.pop("labels")
    found = model.classify(IMAGES)["label"]
    assert found.classes == (0, 1, 2) and found.probabilities.shape == (3, 3)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A run on a folder of 8-pixel images in three classes, and the images of its test split by class."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(2)
    images = {name: rng.integers(0, 256, (4, 8, 8, 3), np.uint8) for name in ("cat", "dog", "fox")}
    for split, name, i in itertools.product(("train", "test"), images, range(4)):
        path = root / split / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[name][i]).save(path)
    folder = tmp_path_factory.mktemp("run")
    config = tiny.get_config(data__name="folder", data__root=str(root), data__train_split="train")
    tiny_checkpoint.write(folder, config, STEP, labels={"label": Labels((3,), ("label",), tuple(images))})
    return folder, images


def test_held_out_examples_come_along(pictures, tmp_path, capsys):
    """As many of each class; their pixels are the files', their codes those of the run's own weights."""
    workdir, images = pictures
    options = {"examples": 6, "example_license": "cc0-1.0", "example_credit": "my cats"}
    folder = run(workdir, tmp_path / "out", **options)
    found = soda_jax.load(folder).examples
    assert len(found) == 6 and found.labels["label"].tolist() == [0, 0, 1, 1, 2, 2] and found.cameras is None
    expected = np.concatenate([of_class[[0, 2]] for of_class in images.values()])
    np.testing.assert_array_equal(found.images, expected)
    np.testing.assert_allclose(found.codes, soda_jax.load(workdir).encode(expected), atol=1e-6)
    assert found.credits[0] == "my cats, example 0" and set(found.licenses) == {"cc0-1.0"}
    assert repr(found) == "Examples(images=[6, 8, 8, 3], with label)"
    card = (folder / "README.md").read_text()
    assert "**Examples**: 6 of split test in `examples/`, for `model.examples`: my cats (cc0-1.0);" in card
    assert "Files: format 2 of soda_jax exports" in card
    assert contents(run(folder, tmp_path / "again")) == contents(folder)
    without = run(folder, tmp_path / "without", examples=0)
    with pytest.raises(ValueError, match="no examples lie beside this model: .*tools.export --examples=N"):
        _ = soda_jax.load(without).examples
    capsys.readouterr()
    run(workdir, tmp_path / "all", examples=50)
    assert "12 examples, not 50: the split has no more that can be read" in capsys.readouterr().out


def test_objects_come_along_with_their_cameras(tmp_path, monkeypatch):
    shown = objects.Objects()
    monkeypatch.setattr(tool.build, "dataset", lambda *_: shown)
    tiny_checkpoint.write(tmp_path / "run", tiny.posed_config(), STEP)
    folder = run(tmp_path / "run", tmp_path / "out", examples=2, example_views=3, dtype="float32")
    model = soda_jax.load(folder)
    found = model.examples
    assert found.images.shape == (2, 3, 8, 8, 3) and found.cameras.pose.shape == (2, 3, 4, 4)
    for i, j in itertools.product(range(2), range(3)):
        thing, view = shown.place(found.cameras.pose[i, j])
        np.testing.assert_array_equal(found.images[i, j], shown.images[thing, view])
        np.testing.assert_allclose(found.cameras.intrinsics[i, j], shown.intrinsics)
    np.testing.assert_allclose(model.encode(found.images, cameras=found.cameras), found.codes, atol=1e-5)


def test_examples_of_a_dataset_that_is_not_here(workdir, tmp_path):
    with pytest.raises(SystemExit, match="error: "):
        run(workdir, tmp_path / "out", examples=2)
    assert not (tmp_path / "out").exists()


def test_figures_that_were_measured_of_an_export_come_along(exported, models, tmp_path):
    data = {"name": models[1].config.data.name, "test_split": "", "eval_split": models[1].config.data.eval_split}
    measured_with = {
        "model": "SODA",
        "weights": models[1].weights_digest,
        "format_version": 2,
        "evaluators": ["edits"],
        "rounded": True,
        "settings": {"data": data},
    }
    one = {"value": 1.5, "low": None, "high": None, "count": None, "over": None}
    new = {"SODA": {"edits/up/safe_high": one, "edits/up/leakage": one, "edits/pca1/safe_high": one}}
    path = made_runs.evaluation(tmp_path, STEP, new, **measured_with)
    again = run(exported, tmp_path / "again", evaluation=[str(path)])
    before, after = (json.loads((folder / "soda.json").read_text())["about"] for folder in (exported, again))
    assert after["figures"]["SODA"] == before["figures"]["SODA"] | new["SODA"]
    assert {row: after["figures"][row] for row in before["figures"] if row != "SODA"} == {
        row: figures for row, figures in before["figures"].items() if row != "SODA"
    }
    card = (again / "README.md").read_text()
    assert "with the run's float32 weights; Edits" in card and "with the weights of this folder." in card
    assert (
        "up safe high" in card and "leakage" not in card and "pca1" not in card
    )  # hundreds of them would hide the rest
    elsewhere = measured_with | {"settings": {"data": data | {"test_split": "train"}}}
    path = made_runs.evaluation(tmp_path, STEP, new, **elsewhere)
    with pytest.raises(SystemExit, match="was measured on .*, train; the card is of"):
        run(exported, tmp_path / "out", evaluation=[str(path)])
    probed = {"evaluators": ["knn"], "rounded": False, "settings": {"data": data, "eval": {"evaluators": ["knn"]}}}
    first = made_runs.evaluation(tmp_path, STEP, {"SODA": {}}, **measured_with | probed)
    both = run(again, tmp_path / "both", evaluation=[str(first)])
    edited = measured_with | {"rounded": False, "settings": {"data": data, "eval": {"evaluators": ["edits"]}}}
    then = made_runs.evaluation(tmp_path, STEP, new, **edited)
    about = json.loads((run(both, tmp_path / "then", evaluation=[str(then)]) / "soda.json").read_text())["about"]
    assert about["settings"]["eval"]["evaluators"] == ["knn", "edits"] and about["rounded"] == []
    of_others = made_runs.evaluation(tmp_path, STEP, new, **measured_with | {"weights": "0" * 64})
    with pytest.raises(SystemExit, match="was measured with other weights"):
        run(exported, tmp_path / "out", evaluation=[str(of_others)])
    with pytest.raises(SystemExit, match="is no evaluation that --mode=evaluate wrote"):
        run(exported, tmp_path / "out", evaluation=[str(exported / "config.json")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"push": "nobody"}, "--push=nobody: give ORG/NAME"),
        ({"step": "last"}, "--step=last: give a checkpoint's step, newest or best"),
        ({"step": "7"}, "holds no checkpoint of step 7"),
        ({"step": "best"}, "step='best': .* holds no best checkpoint"),
        ({"workdir": "/nowhere"}, "/nowhere holds no checkpoint"),
        ({"out": ""}, "--out='' is empty"),
    ],
)
def test_what_the_command_refuses(workdir, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        run(**({"workdir": workdir, "out": tmp_path / "out"} | options))
    assert not (tmp_path / "out").exists()


def forge_config(folder, change):
    """Changes the config, and whatever says that it was not changed."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content["config"])
    path.write_text(json.dumps(content))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    hostile_exports.rewrite(folder, lambda arrays: None, config_sha256=digest)


CONFIGS = {
    "an unknown field": (
        lambda config: config["model"].update(backdoor="os.system"),
        "config.model.backdoor is a field that this release does not know",
    ),
    "a missing section": (lambda config: config.pop("diffusion"), "config.diffusion.* is missing"),
    "text for a number": (lambda config: config["model"].update(latent_dim="16"), "config.model.latent_dim='16': must"),
    "a size beyond memory": (lambda config: config["model"].update(latent_dim=10**12), "must be at most"),
    "another model": (lambda config: config["model"].update(latent_dim=32), "not of the model that config.json"),
    "an unknown family": (
        lambda config: config["model"].update(family="gpt"),
        "config.model.family='gpt', but soda.json says 'soda'",
    ),
}


@pytest.mark.parametrize("kind", [*CONFIGS, "cut weights", "a newer release's", "a pickle"])
def test_load_refuses_a_foreign_folder(exported, tmp_path, monkeypatch, kind):
    folder = shutil.copytree(exported, tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    if kind in CONFIGS:
        change, message = CONFIGS[kind]
        forge_config(folder, change)
    else:
        damage, message = (hostile_exports.DAMAGE | hostile_exports.FORGED)[kind]
        damage(folder)
    with pytest.raises(ValueError, match=message) as refused:
        soda_jax.load(folder)
    assert str(folder) in str(refused.value) and not os.path.exists("UNPICKLED")


def test_load_names_a_step_that_an_export_has_not(exported):
    assert soda_jax.load(exported, STEP).step == STEP
    for step in (7, "best"):
        with pytest.raises(FileNotFoundError, match=f"step={step!r}: .* is an export of step {STEP}"):
            soda_jax.load(exported, step)
