"""`--mode=sample`: pictures of held-out examples from a checkpoint's EMA weights, those that the config names."""

import functools
import pathlib

import jax
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.config.pictures import DEFAULT
from soda_jax.inference import directions, pictures
from soda_jax.inference.engine import Inference, Variables
from soda_jax.inference.weights import Weights, of_checkpoint
from soda_jax.paths import run_folder


def sample(
    config: ConfigDict, workdir: str, *, step: int | str | None = None, weights: Weights | None = None
) -> pathlib.Path:
    """Writes WORKDIR/samples/PICTURE_STEP_seedS.png of each of `config.sampling.pictures`; moving ones, .gif and .mp4.

    `config.sampling` sets their numbers of examples and views, and steps, method and guidance; `config.seed` the noise.
    Pictures that model and settings cannot give are left out. Those that move along directions find them first, which
    then stand in WORKDIR/directions/STEP.

    Args:
      step: which checkpoint: a step, or "best" by the metric that training watched; the newest by default.
      weights: in place of a checkpoint of the workdir (`soda_jax.given`).

    Returns:
      The first picture's path.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: there is none that the model can give.
    """
    workdir = run_folder(workdir)
    config_lib.validate(config)  # training's batch need not fit the devices here
    weights = of_checkpoint(config, workdir, step) if weights is None else weights
    step = weights.step
    inference = Inference(config)
    variables, digest = weights.read(inference)
    context = pictures.PictureContext(
        inference,
        variables,
        build.dataset(config, config_lib.scored_split(config)),
        build.view_spec(config),
        config.sampling,
        config.seed,
        functools.cache(lambda: _find(config, inference, variables, workdir, step, digest)),
    )
    paths = []
    for name in config.sampling.pictures:
        picture = pictures.draw(name, context)
        if picture is None:
            if jax.process_index() == 0 and name not in DEFAULT:
                print(f"step {step}: no {name}, which needs {pictures.missing(name, context) or 'other settings'}")
            continue
        path = pathlib.Path(workdir) / "samples" / f"{name}_{step:08d}_seed{config.seed}.png"
        if jax.process_index() == 0:
            print(f"step {step}: {name} in {pictures.write(picture, path)}")
        paths.append(path)
    if not paths:
        raise ValueError(
            f"config.sampling.pictures={config.sampling.pictures!r}: with these settings the model gives none of them; "
            "name grid, too, or see the fields of config.sampling that belong to them"
        )
    return paths[0]


def _find(
    config: ConfigDict, inference: Inference, variables: Variables, workdir: str, step: int, model: str
) -> directions.Found:
    """What training images tell about the latent, kept with the checkpoint."""
    found = directions.of_run(config, inference, variables, model)
    if jax.process_index() == 0:
        place = directions.keep(found, workdir, step, model)
        print(f"step {step}: {len(found.directions)} directions of {len(found.codes)} latents in {place}")
    return found
