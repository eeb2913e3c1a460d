"""`--mode=sample`: PNG grids of held-out examples from a checkpoint's EMA weights."""

import pathlib

import jax
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.checkpoint import check_same_model, load_ema, read_meta
from soda_jax.grids import GridWriter
from soda_jax.inference import Inference
from soda_jax.writers import save_png


def sample(config: ConfigDict, workdir: str) -> pathlib.Path:
    """Writes WORKDIR/samples/grid_STEP_seedS.png: source | target | reconstruction or novel view | unconditional.

    `config.sampling` sets rows, steps, method and guidance; `config.seed` the noise.
    """
    config_lib.validate(config)  # training's batch need not fit the devices here
    step, meta = read_meta(workdir)
    check_same_model(workdir, meta, config)
    inference = Inference(config)
    variables = load_ema(workdir, step, inference.abstract_variables())
    source = build.source(config, config.data.eval_split)
    grid = GridWriter(inference, source, build.view_spec(config), config.sampling.num_images)
    image = grid.draw(variables, seed=config.seed)
    path = pathlib.Path(workdir) / "samples" / f"grid_{step:08d}_seed{config.seed}.png"
    if jax.process_index() == 0:
        save_png(path, image)
        print(f"step {step}: grid in {path}")
    return path
