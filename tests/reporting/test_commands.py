"""The commands in a model's card mean the config that it was made with."""

import shlex

import pytest
from absl import flags

from soda_jax import cli
from soda_jax.cli import define_config_flag
from soda_jax.reporting import commands, recipes

CHANGES = {
    "train.num_steps": 123,
    "optim.b2": 0.999,
    "model.denoiser.multipliers": (1, 2),
    "model.encoder.name": "vit_mini",
    "data.flip": False,
    "eval.num_examples": 77,  # of training's own evaluations, too
    "eval.knn_k": (5,),
    "eval.evaluators": ("knn", "reconstruction"),
    "sampling.eta": 0.5,
}


def meant(command):
    """The config, flat, that a command line means."""
    program, *argv = shlex.split(command)[2:]
    assert program == "soda_jax.main"
    values = flags.FlagValues()
    argv = [program, *(flag for flag in argv if flag.startswith("--config"))]
    holder = define_config_flag(values, argv)
    values(argv)
    return recipes.flatten(holder.value)


@pytest.mark.parametrize("value", ["scenes", "cifar10:small", "multiview", "mpi3d:real", "lsun:cat"])
def test_a_command_means_its_config(value):
    config = cli.load_config(value)
    assert commands.training(config.to_dict()).startswith(f"python -m soda_jax.main --config={value} --workdir=RUN")
    config.update_from_flattened_dict(CHANGES | {"data.root": "/home/somebody"})
    flat = recipes.flatten(config) | {"data.root": ""}
    trained = meant(commands.training(config.to_dict()).replace("DIR", ""))
    measured = meant(commands.evaluation(config.to_dict()).replace("DIR", ""))
    for found, sections in ((trained, ("eval.", "sampling.")), (measured, ("train.", "optim."))):
        differing = {name for name in flat if found[name] != flat[name]}
        unsaid = {name for name in CHANGES if name.startswith(sections)}
        assert differing == unsaid - {"eval.num_examples"}


def test_a_dataset_of_ones_own_is_told_by_the_nearest_config():
    config = cli.load_config("cub")
    config.data.name = "mine"
    assert commands.training(config.to_dict()) == (
        "python -m soda_jax.main --config=cub --workdir=RUN --config.data.root=DIR --config.data.name=mine"
    )


def test_what_the_user_has_to_name_stands_in_capitals():
    config = cli.load_config("celeba_hq")
    config.model.family = "frozen"
    command = commands.training(config.to_dict(), started_from_a_model=True)
    for flag in ("--config.data.root=DIR", "--config.model.frozen.path=PLACE", "--init_from=PLACE"):
        assert flag in command.split()
    assert "root" not in commands.training(cli.load_config("scenes").to_dict())


def test_it_is_measured_as_it_was():
    config = cli.load_config("scenes").to_dict()
    settings = {"eval": config["eval"] | {"image_metrics": ("psnr", "fid"), "evaluators": ("knn",)}}
    command = commands.evaluation(config, settings)
    assert "--config.eval.evaluators=('knn',)" in shlex.split(command)
    assert "--config.eval.inception_weights=FILE" in command and "evaluators" not in commands.evaluation(config)


def test_without_configs_there_is_no_command(monkeypatch, tmp_path):
    config = cli.load_config("scenes").to_dict()
    monkeypatch.setattr(cli, "FOLDER", tmp_path)
    assert commands.training(config) == commands.evaluation(config) == ""
