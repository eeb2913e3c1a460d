"""`--mode=sample`: pictures of held-out examples from a checkpoint's EMA weights: grids, and turntables of objects."""

import math
import pathlib

import jax
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.inference.engine import Inference
from soda_jax.inference.grids import GridWriter
from soda_jax.inference.turntable import Turntable
from soda_jax.workdir.checkpoint import check_same_model, load_ema, read_meta
from soda_jax.workdir.writers import save_gif, save_png

TURNTABLE_SECONDS = 4.0  # for one turn


def sample(config: ConfigDict, workdir: str) -> pathlib.Path:
    """Writes WORKDIR/samples/grid_STEP_seedS.png: source | target | reconstruction or novel view | unconditional.

    `config.sampling` sets rows, steps, method and guidance; `config.seed` the noise. Where the model takes cameras, the
    same objects from `config.sampling.turntable_views` cameras around them go to turntable_STEP_seedS.png and .gif.

    Returns:
      The grid's path.
    """
    config_lib.validate(config)  # training's batch need not fit the devices here
    step, meta = read_meta(workdir)
    check_same_model(workdir, meta, config)
    inference = Inference(config)
    variables = load_ema(workdir, step, inference.abstract_variables())
    dataset = build.dataset(config, config.data.eval_split)
    spec, settings = build.view_spec(config), config.sampling
    grid = GridWriter(inference, dataset, spec, settings.num_images)
    image = grid.draw(variables, seed=config.seed)
    folder, name = pathlib.Path(workdir) / "samples", f"{step:08d}_seed{config.seed}"
    path = folder / f"grid_{name}.png"
    if jax.process_index() == 0:
        save_png(path, image)
        print(f"step {step}: grid in {path}")
    pose = inference.model.pose
    if pose is not None and pose.needs_cameras and settings.turntable_views:
        altitude = settings.turntable_altitude
        turntable = Turntable(
            inference,
            dataset,
            spec,
            count=settings.num_images,
            num_views=settings.turntable_views,
            altitude=None if altitude is None else math.radians(altitude),
        )
        shown = turntable.draw(variables, seed=config.seed)
        if jax.process_index() == 0:
            strip = folder / f"turntable_{name}.png"
            save_png(strip, shown.strip())
            save_gif(strip.with_suffix(".gif"), shown.frames(), TURNTABLE_SECONDS)
            print(f"step {step}: turntable in {strip} and .gif")
    return path
