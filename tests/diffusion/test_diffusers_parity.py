"""The chain against diffusers' DDPMScheduler on the same betas."""

import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.diffusion import SCHEDULES, Diffusion

REASON = "compares with diffusers' DDPMScheduler, which needs torch: pip install torch diffusers"
torch = pytest.importorskip("torch", reason=REASON)
diffusers = pytest.importorskip("diffusers", reason=REASON)


def reference_scheduler(chain, num_steps):
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=chain.num_steps,
        trained_betas=np.asarray(chain.betas[1:]),
        variance_type="fixed_small",
        clip_sample=True,
        timestep_spacing="linspace",
    )
    scheduler.set_timesteps(num_steps)
    return scheduler


@pytest.mark.parametrize("num_steps", [1000, 250, 75])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_steps_agree(schedule, num_steps):
    """Timesteps, x_0 prediction, posterior mean and variance; their table is float32."""
    training = Diffusion.create(schedule, 1000)
    chain = training.respace(num_steps)
    scheduler = reference_scheduler(training, num_steps)
    np.testing.assert_array_equal(scheduler.timesteps.numpy() + 1, chain.timesteps[:0:-1])

    rng = np.random.default_rng(0)
    for step in np.unique(np.linspace(1, num_steps, 25).astype(int)):
        x_0 = rng.uniform(-1, 1, (1, 4, 4, 3)).astype(np.float32)
        eps = rng.normal(size=x_0.shape).astype(np.float32)
        t = jnp.full((1,), step, jnp.int32)
        x_t = np.array(chain.q_sample(x_0, t, eps))
        theirs = scheduler.step(
            torch.from_numpy(eps),
            int(chain.timesteps[step]) - 1,
            torch.from_numpy(x_t),
            generator=torch.Generator().manual_seed(0),
        )
        prediction = jnp.clip(chain.predict_x0(x_t, t, eps), -1, 1)
        mean, variance = chain.posterior(prediction, x_t, t)
        noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0)).numpy()
        ours = mean + jnp.sqrt(variance) * noise
        # Where abar is close to 0, their float32 product of 1000 factors has lost more digits.
        tolerance = 1e-4 + 1e-6 / np.sqrt(chain.abar[step])
        np.testing.assert_allclose(prediction, theirs.pred_original_sample, atol=tolerance)
        np.testing.assert_allclose(ours, theirs.prev_sample, atol=tolerance)
