"""The losses of variational autoencoders (F.5): one reconstruction, and each family's own regulariser.

    z = mean + exp(log-variance / 2) eps,  L = -log p(x_0 | z) + R

-log p is summed over pixels and channels, up to a constant: half the squared error of images in [0, 1] (a Gaussian of
deviation 1), or the cross-entropy (Bernoulli). R is in nats too: beside a mean over pixels the posterior collapses.
The regularisers are those of Locatello et al. 2019 (disentanglement_lib), which the paper ran.

  family        R, with KL = E KL(q(z | x') || N(0, 1))
  vae_beta      beta KL                                                      (Higgins et al. 2017)
  vae_annealed  gamma |KL - C|, C rising from 0                              (Burgess et al. 2018)
  vae_factor    KL + gamma TC, TC by a discriminator                         (Kim & Mnih 2018)
  vae_tc        KL + (beta - 1) TC, TC by minibatch-weighted sampling        (Chen et al. 2018)
  vae_dip1      KL + the distance of the means' covariance from 1            (Kumar et al. 2018, Equation 6)
  vae_dip2      KL + the distance of the codes' covariance from 1            (the same, Equation 7)

TC is the total correlation, KL(q(z) || prod_l q(z_l)). An evaluation decodes the mean, and its loss is the negative
ELBO, -log p + KL: the same measure for every family and at every step.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from soda_jax import rngs
from soda_jax.models.baselines import Discriminator, VariationalAutoencoder
from soda_jax.objectives.objective import (
    ADVERSARY,
    Batch,
    Loss,
    Objective,
    Variables,
    initial_variables,
    run_encoder,
)
from soda_jax.rngs import Draws


class Codes(NamedTuple):
    """What the encoder says of a batch: means and log-variances, and the codes drawn from them, all [B, d]."""

    mean: jax.Array
    log_variance: jax.Array
    z: jax.Array


class Terms(NamedTuple):
    """A regulariser's parts: of each example [B], of the whole batch, the adversary's loss (None without), metrics."""

    per_example: jax.Array
    whole: jax.Array | None = None
    adversary: jax.Array | None = None
    metrics: dict[str, jax.Array] = {}


class Regulariser(Protocol):
    """From codes and the step of training to the terms beside the reconstruction.

    Attributes:
      whole_batch: whether there is one of the batch as a whole (`Objective.whole_batch`).
    """

    whole_batch: ClassVar[bool]

    def __call__(self, codes: Codes, step: jax.Array | int) -> Terms: ...


def gaussian_kl(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of each example in nats, summed over dimensions: [B, d] to [B]."""
    return 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(log_variance) - log_variance - 1.0, axis=-1)


def total_correlation(codes: Codes) -> jax.Array:
    """E log q(z) - sum_l log q(z_l) in nats over the batch, a scalar (Chen et al. 2018, minibatch-weighted sampling).

    q(z) is taken for the mean of q(z | x_i) over the batch itself. As in disentanglement_lib the constant
    (d - 1) log(B N), which moves no gradient, is left out: the value depends on the batch's size. Takes B^2 d numbers.
    """
    mean, log_variance, z = codes
    # log q(z_jl | x_i), [j, i, l].
    scaled = jnp.square(z[:, None] - mean[None]) * jnp.exp(-log_variance)[None]
    log_q = -0.5 * (scaled + log_variance[None] + np.log(2 * np.pi))
    log_qz = jax.nn.logsumexp(log_q.sum(axis=-1), axis=1)
    log_qz_product = jax.nn.logsumexp(log_q, axis=1).sum(axis=-1)
    return jnp.mean(log_qz - log_qz_product)


def permuted(z: jax.Array, draw: Draws) -> jax.Array:
    """Codes [B, d] of prod_l q(z_l): each dimension shuffled over the batch by itself.

    The order is that of a random number of each example, so that it depends neither on devices nor on microbatches.
    """
    numbers = draw("permutation", lambda key: jax.random.uniform(key, z.shape[1:]))
    return jnp.take_along_axis(z, jnp.argsort(numbers, axis=0), axis=0)


@dataclasses.dataclass(frozen=True)
class Beta:
    """beta KL (Higgins et al. 2017, Equation 4)."""

    beta: float
    whole_batch: ClassVar[bool] = False

    def __call__(self, codes: Codes, step: jax.Array | int) -> Terms:
        return Terms(self.beta * gaussian_kl(codes.mean, codes.log_variance))


@dataclasses.dataclass(frozen=True)
class Annealed:
    """gamma |KL - C| (Burgess et al. 2018, Equation 8), of the batch's mean KL.

    Attributes:
      capacity, steps: C rises linearly from 0 to `capacity` nats over so many steps, and stays there.
    """

    gamma: float
    capacity: float
    steps: int
    whole_batch: ClassVar[bool] = True

    def __call__(self, codes: Codes, step: jax.Array | int) -> Terms:
        kl = gaussian_kl(codes.mean, codes.log_variance)
        capacity = self.capacity * jnp.minimum(1.0, step / self.steps)
        return Terms(jnp.zeros_like(kl), self.gamma * jnp.abs(kl.mean() - capacity), metrics={"vae/capacity": capacity})


@dataclasses.dataclass(frozen=True)
class TotalCorrelation:
    """KL + (beta - 1) TC (Chen et al. 2018, Equation 5 with alpha = gamma = 1)."""

    beta: float
    whole_batch: ClassVar[bool] = True

    def __call__(self, codes: Codes, step: jax.Array | int) -> Terms:
        kl, correlation = gaussian_kl(codes.mean, codes.log_variance), total_correlation(codes)
        return Terms(kl, (self.beta - 1.0) * correlation, metrics={"vae/total_correlation": correlation})


@dataclasses.dataclass(frozen=True)
class Covariance:
    """KL + lambda_od sum_{i != j} Cov_ij^2 + lambda_d sum_i (Cov_ii - 1)^2 (Kumar et al. 2018).

    Attributes:
      lambda_d: None is disentanglement_lib's, 10 lambda_od for I and lambda_od for II.
      of_codes: of the codes, which is the means' and the mean variance on top (DIP-VAE II); else of the means (I).
    """

    lambda_od: float
    lambda_d: float | None
    of_codes: bool
    whole_batch: ClassVar[bool] = True

    def __call__(self, codes: Codes, step: jax.Array | int) -> Terms:
        kl = gaussian_kl(codes.mean, codes.log_variance)
        centred = codes.mean - codes.mean.mean(axis=0)
        covariance = centred.T @ centred / centred.shape[0]
        if self.of_codes:
            covariance += jnp.diag(jnp.exp(codes.log_variance).mean(axis=0))
        diagonal = jnp.diag(covariance)
        off_diagonal = jnp.square(covariance).sum() - jnp.square(diagonal).sum()
        lambda_d = self.lambda_od * (1.0 if self.of_codes else 10.0) if self.lambda_d is None else self.lambda_d
        whole = self.lambda_od * off_diagonal + lambda_d * jnp.square(diagonal - 1.0).sum()
        return Terms(kl, whole, metrics={"vae/covariance": whole})


@dataclasses.dataclass(frozen=True)
class VaeObjective(Objective):
    """The reconstruction of a target from a code of its sources, and a regulariser of the codes.

    Attributes:
      regulariser: of the codes.
      source_noise: std of the noise on the normalised sources.
    """

    model: VariationalAutoencoder
    regulariser: Regulariser
    source_noise: float = 0.0

    @property
    def whole_batch(self) -> bool:
        """See `Objective`."""
        return self.regulariser.whole_batch

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """See `Objective.init`."""
        return initial_variables(self.model, key, batch)

    def loss(self, variables: Variables, batch: Batch, draw: Draws, train: bool) -> Loss:
        """See `Objective.loss`."""
        mean, out, pixels, batch_stats = run_encoder(
            self.model, variables, batch, draw, train, source_noise=self.source_noise
        )
        codes = Codes(mean, out["log_variance"], mean)
        if train:  # z ~ q(z | x'), whose randomness does not hide the gradient (Kingma & Welling 2014)
            eps = draw("code", lambda key: jax.random.normal(key, mean.shape[1:]))
            codes = codes._replace(z=mean + jnp.exp(0.5 * codes.log_variance) * eps)
        image, decoded = self.model.apply(
            variables,
            codes.z,
            jnp.ones((mean.shape[0], self.model.num_sections)),
            draw.ids if train else None,
            method="decode",
            rngs={"dropout": draw.stream("decoder_dropout")} if train else None,
        )
        features = {"latent": mean, "pixels": pixels}
        with jax.named_scope("loss"):
            x = batch["target"].astype(jnp.float32) / 255.0
            if self.model.bernoulli:
                error = optax.sigmoid_binary_cross_entropy(decoded["logits"], x)
            else:
                error = 0.5 * jnp.square((image + 1.0) / 2.0 - x)
            reconstruction, kl = error.sum(axis=(1, 2, 3)), gaussian_kl(codes.mean, codes.log_variance)
            if not train:
                return Loss(reconstruction + kl, features, batch_stats)
            terms = self._terms(variables, codes, draw)
            metrics = {"vae/reconstruction": reconstruction.mean(), "vae/kl": kl.mean()} | terms.metrics
            per_example = reconstruction + terms.per_example
            return Loss(per_example, features, batch_stats, terms.whole, terms.adversary, metrics)

    def _terms(self, variables: Variables, codes: Codes, draw: Draws) -> Terms:
        """What training minimises beside the reconstruction."""
        return self.regulariser(codes, draw.step)


def log_density_ratio(discriminator: Discriminator, params: Any, z: jax.Array) -> jax.Array:
    """log q(z) / prod_l q(z_l) of each code as the discriminator sees it, [B] (Kim & Mnih 2018, Equation 3)."""
    logits = discriminator.apply({"params": params}, z)
    return logits[:, 0] - logits[:, 1]


def discriminator_loss(ratio: jax.Array, ratio_permuted: jax.Array) -> jax.Array:
    """Cross-entropy in nats of telling codes from permuted ones, each half of all, by `log_density_ratio`s [B]."""
    return 0.5 * (jax.nn.softplus(-ratio).mean() + jax.nn.softplus(ratio_permuted).mean())


@dataclasses.dataclass(frozen=True)
class FactorVaeObjective(VaeObjective):
    """KL + gamma TC (Kim & Mnih 2018, Equation 2), with the discriminator that estimates TC as its adversary.

    The discriminator tells the batch's codes from permuted ones, which disentanglement_lib takes of the same batch (the
    article of a second one). It sees codes without their gradient, and the model its estimate without its parameters'.

    Attributes:
      regulariser: what stands beside gamma TC: the plain KL.
      gamma: weight of the total correlation.
      discriminator, adversary_optimizer: the adversary.
    """

    gamma: float = 10.0
    discriminator: Discriminator = Discriminator()
    adversary_optimizer: optax.GradientTransformation = dataclasses.field(
        default_factory=lambda: optax.adam(1e-4, b1=0.5, b2=0.9)
    )

    roles: ClassVar[Mapping[str, str]] = MappingProxyType({"discriminator": ADVERSARY})
    whole_batch: ClassVar[bool] = True  # codes are permuted among all

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """See `Objective.init`."""
        variables = super().init(key, batch)
        codes = jnp.zeros((1, self.model.encoder.latent_dim // 2))
        params = self.discriminator.init(rngs.stream(key, "discriminator", 0), codes)["params"]
        return variables | {"params": variables["params"] | {"discriminator": params}}

    def _terms(self, variables: Variables, codes: Codes, draw: Draws) -> Terms:
        terms, params = super()._terms(variables, codes, draw), variables["params"]["discriminator"]
        correlation = log_density_ratio(self.discriminator, jax.lax.stop_gradient(params), codes.z)
        z = jax.lax.stop_gradient(codes.z)
        real = log_density_ratio(self.discriminator, params, z)
        shuffled = log_density_ratio(self.discriminator, params, permuted(z, draw))
        metrics = {
            "vae/total_correlation": correlation.mean(),
            "adversary/accuracy": 0.5 * ((real > 0).mean() + (shuffled < 0).mean()),
        }
        return Terms(
            terms.per_example + self.gamma * correlation,
            adversary=discriminator_loss(real, shuffled),
            metrics=terms.metrics | metrics,
        )
