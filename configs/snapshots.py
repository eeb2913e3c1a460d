"""SODA on snapshots of rooms that the package renders itself, where labels are not linear in pixels: no download.

    python -m soda_jax.main --config=configs/snapshots.py --workdir=...

Source and target are two cameras' views of one room (`scenes_handheld`): the cameras stand anywhere, aim beside the
object, are tilted and expose differently, and the model is told nothing of them. So the latent has to tell what the
views share. 2,400 steps took 409 s on two cores: k-NN, k = 20: floor .978 (raw pixels .917), wall .633 (.531), object
hue .681 (.514), but shape .307 (.621) and scale .152 (.438), which so short a run has not begun to learn; more in
REPRODUCTION.md "Snapshots". Pictures are blurs of about the right colours: the quickstart has better ones.
"""

from ml_collections import ConfigDict

from soda_jax.configs import common, quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.train.num_steps = 2400
    common.watch(config, "probe/mean", patience=0)  # the cosine's end improves on all before
    config.data.name = "scenes_handheld"
    config.data.eval_split = "validation"
    config.data.view_policy = "camera"
    config.model.modulation.kind = "full"  # the denoiser reads z sooner than with `layer`, which has sections
    # Few steps without guidance give nearly the mean of the views that fit the latent.
    config.sampling.method = "ddim"
    config.sampling.num_steps = 3
    config.sampling.guidance_scale = 1.0
    return config
