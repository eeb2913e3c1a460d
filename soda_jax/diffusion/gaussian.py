"""The Gaussian chain (SODA, Section 3.1 and Appendix A; Ho et al. 2020): forward, posterior, x_0.

q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I), t in 1..T, abar_0 = 1.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from soda_jax.diffusion import schedules

PREDICTIONS = ("eps", "v")


@dataclasses.dataclass(frozen=True, eq=False)
class Diffusion:
    """A discrete diffusion chain with S steps, made by `create` (S = T) or `respace` (S <= T).

    The methods take images x of shape [B, ...] and steps t, int32 [B] in 1..S, on the chain's *own*
    scale; `timesteps[t]` is the step on the training scale, which is what a denoiser is given.
    Steps outside 1..S are not detected (t is traced under jit). `q_sample` also takes t = 0.

    Attributes:
      abar: float64 [S + 1], variance of the image left at each step; entry 0 is 1 (clean).
      timesteps: int32 [S + 1], the step on the training scale 0..T of each entry of `abar`.
      prediction: what the denoiser predicts: "eps", the noise (the paper), or "v", the velocity
        sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Salimans & Ho 2022). An error of x_0 weighs abar_t / (1 - abar_t)
        in the loss of eps and 1 / (1 - abar_t) in that of v, which so learns from the noisiest steps too.
    """

    abar: np.ndarray
    timesteps: np.ndarray
    prediction: str = "eps"

    @classmethod
    def create(cls, schedule: str = "inverted", num_timesteps: int = 1000, prediction: str = "eps") -> Diffusion:
        """The training chain: T = `num_timesteps` steps of the named schedule.

        Raises:
          ValueError: for an unknown schedule or prediction, or num_timesteps < 1.
        """
        if prediction not in PREDICTIONS:
            raise ValueError(f"unknown prediction {prediction!r}: choose {' or '.join(PREDICTIONS)}")
        abar = schedules.alphas_cumprod(schedule, num_timesteps)
        timesteps = np.arange(num_timesteps + 1, dtype=np.int32)
        return cls(abar=abar, timesteps=timesteps, prediction=prediction)

    @property
    def num_steps(self) -> int:
        """S, the number of steps from noise to image."""
        return len(self.abar) - 1

    @property
    def betas(self) -> np.ndarray:
        """float64 [S + 1], beta_t = 1 - abar_t / abar_{t-1}, the noise of step t; entry 0 is 0."""
        # From the chain's own abar: a respaced chain has longer steps, and so larger betas than training.
        return np.concatenate([[0.0], 1 - self.abar[1:] / self.abar[:-1]])

    @property
    def posterior_variance(self) -> np.ndarray:
        """float64 [S + 1], variance of q(x_{t-1} | x_t, x_0); entries 0 and 1 are 0."""
        # Ho et al. 2020, Equation 7: beta_t (1 - abar_{t-1}) / (1 - abar_t), "fixed small". The paper leaves "fixed or
        # learned" open (Appendix B); this is our choice. As abar_0 = 1, the last step adds no noise.
        abar_before = self.abar[:-1]
        variance = self.betas[1:] * (1 - abar_before) / (1 - self.abar[1:])
        return np.concatenate([[0.0], variance])

    def respace(self, num_steps: int) -> Diffusion:
        """A shorter chain over an evenly strided subset of this one's steps.

        As in improved DDPM (Nichol & Dhariwal 2021): the marginals q(x_t | x_0) at the chosen steps
        stay as trained, and the betas between them follow from the ratios of abar. The subset holds
        the steps 0 (clean), 1 and T: the walk ends on the clean image, not on a noisy one. With
        num_steps = 1 it goes from T to 0 at once.

        Raises:
          ValueError: unless 1 <= num_steps <= the number of steps of this chain.
        """
        if not 1 <= num_steps <= self.num_steps:
            raise ValueError(
                f"num_steps is {num_steps}: sampling takes between 1 and {self.num_steps} steps, "
                "as the model was trained on that many"
            )
        # Appendix C: 1000 steps, "practically strided into 75-250 steps". Entries of abar are chosen, not of the betas:
        # x_t at a chosen step is then as noisy as the denoiser has seen it in training.
        # A stride of 1 or more keeps the rounded steps distinct. Rounding from 0, as improved DDPM
        # does, settles the ties in the same way.
        last = self.num_steps - 1
        strided = np.rint(np.linspace(0 if num_steps > 1 else last, last, num_steps))
        # Step 0 stays in. A walk that ends on entry 1 instead keeps that step's noise (abar_1 = 0.9797 of "inverted"),
        # which caps PSNR at 22.9 dB even with a perfect denoiser.
        chosen = np.concatenate([[0], 1 + strided.astype(np.int32)])
        return dataclasses.replace(self, abar=self.abar[chosen], timesteps=self.timesteps[chosen])

    def q_sample(self, x_0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
        """Noises images: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.

        Args:
          x_0: clean images, [B, ...] in [-1, 1].
          t: int32 [B].
          eps: standard normal noise, [B, ...].

        Returns:
          x_t, [B, ...].
        """
        signal = gather(np.sqrt(self.abar), t, x_0)
        noise = gather(np.sqrt(1 - self.abar), t, x_0)
        return signal * x_0 + noise * eps

    def target(self, x_0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
        """What the denoiser should predict at x_t = `q_sample(x_0, t, eps)`: eps, or v."""
        if self.prediction == "eps":
            return eps  # the paper's: || eps - eps_theta(x_t, t, z, c) ||^2 (Appendix B)
        # v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0
        return gather(np.sqrt(self.abar), t, x_0) * eps - gather(np.sqrt(1 - self.abar), t, x_0) * x_0

    def predict_x0(self, x_t: jax.Array, t: jax.Array, output: jax.Array) -> jax.Array:
        """The image that x_t and the denoiser's output imply.

        (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t), or sqrt(abar_t) x_t - sqrt(1 - abar_t) v.
        """
        signal = gather(np.sqrt(self.abar), t, x_t)
        noise = gather(np.sqrt(1 - self.abar), t, x_t)
        # x_t = signal x_0 + noise eps, solved for x_0; with v the squares of signal and noise add up to 1.
        if self.prediction == "v":
            return signal * x_t - noise * output
        return (x_t - noise * output) / signal

    def predict_eps(self, x_t: jax.Array, t: jax.Array, x_0: jax.Array) -> jax.Array:
        """The noise that x_t and its image imply: (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t)."""
        signal = gather(np.sqrt(self.abar), t, x_t)
        noise = gather(np.sqrt(1 - self.abar), t, x_t)
        return (x_t - signal * x_0) / noise

    def posterior(self, x_0: jax.Array, x_t: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """q(x_{t-1} | x_t, x_0), one step back (Ho et al. 2020, Equations 6 and 7).

        Args:
          x_0: clean images, [B, ...].
          x_t: noised images, [B, ...].
          t: int32 [B] in 1..S.

        Returns:
          (mean [B, ...], variance [B, 1, ...]). At t = 1 they are x_0 and 0.
        """
        beta, noise_variance = self.betas[1:], 1 - self.abar[1:]
        abar_before = self.abar[:-1]
        # Equation 7: the mean is [sqrt(abar_{t-1}) beta_t x_0 + sqrt(1 - beta_t) (1 - abar_{t-1}) x_t] / (1 - abar_t).
        # Entry 0 has no step before it; it only pads the tables.
        on_x_0 = np.concatenate([[1.0], np.sqrt(abar_before) * beta / noise_variance])
        on_x_t = np.concatenate([[0.0], np.sqrt(1 - beta) * (1 - abar_before) / noise_variance])
        mean = gather(on_x_0, t, x_t) * x_0 + gather(on_x_t, t, x_t) * x_t
        return mean, gather(self.posterior_variance, t, x_t)


def gather(table: np.ndarray, t: jax.Array, like: jax.Array) -> jax.Array:
    """Entries t [B] of a float64 table as float32 [B, 1, ...], to broadcast against `like`.

    The tables stay float64 until here: in float32, 1 - abar loses digits where abar is close to 1.
    """
    values = jnp.asarray(table, jnp.float32)[t]
    return values.reshape(values.shape + (1,) * (jnp.ndim(like) - 1))
