"""Offline linear probe on frozen features (SODA Appendix E.1)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from soda_jax.evaluators.features import FeatureSet
from soda_jax.models.probe import probe_hits, probe_loss

VALIDATION_SHARE = 0.1


class LinearProbeEvaluator:
    """Softmax probe on features normalised without affine parameters, dropout 0.1, no weight decay.

    All learning rates are trained side by side; the one that does best on a held-out tenth of the training features is
    measured on the test features.

    Args:
      learning_rates: of Adam, with cosine decay to 0.
      epochs: passes over the training features.
      label_smoothing, dropout, init_scale, bias_init: as for the online probe.
    """

    def __init__(
        self,
        learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2),
        epochs: int = 100,
        batch_size: int = 512,
        *,
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
        init_scale: float = 0.02,
        bias_init: float = 0.0,
        seed: int = 0,
    ):
        self._rates = jnp.asarray(learning_rates, jnp.float32)
        self._epochs, self._batch_size = epochs, batch_size
        self._dropout, self._smoothing = dropout, label_smoothing
        self._init_scale, self._bias_init = init_scale, bias_init
        self._seed = seed
        self._fit = jax.jit(self._train, static_argnames="sizes")

    def run(self, train: FeatureSet, test: FeatureSet) -> dict[str, float]:
        """{"linear_probe/NAME": accuracy}, and "linear_probe/mean" where there are several targets."""
        order = np.random.default_rng(self._seed).permutation(len(train.features))
        held = max(1, int(len(order) * VALIDATION_SHARE))
        fit, validation = order[held:], order[:held]
        if len(fit) == 0:
            raise ValueError(f"a linear probe needs at least 2 training examples, got {len(order)}")
        mean, std = train.features[fit].mean(axis=0), train.features[fit].std(axis=0)

        def normalise(features: np.ndarray) -> jax.Array:
            return jnp.asarray((features - mean) / np.sqrt(std**2 + 1e-5))

        params = self._fit(normalise(train.features[fit]), jnp.asarray(train.targets[fit]), train.sizes)
        scores = self._accuracy(params, normalise(train.features[validation]), train.targets[validation], train.sizes)
        best = int(scores.mean(axis=1).argmax())
        chosen = jax.tree.map(lambda p: p[best : best + 1], params)
        accuracy = self._accuracy(chosen, normalise(test.features), test.targets, train.sizes)[0]
        results = {f"linear_probe/{name}": float(a) for name, a in zip(train.names, accuracy, strict=True)}
        if len(train.names) > 1:
            results["linear_probe/mean"] = float(accuracy.mean())
        return results | {"linear_probe/learning_rate": float(self._rates[best])}

    def _train(self, features: jax.Array, targets: jax.Array, sizes: tuple[int, ...]) -> Any:
        """Parameters for every learning rate, stacked on the leading axis."""
        batch = min(self._batch_size, len(features))
        steps_per_epoch = len(features) // batch
        total = self._epochs * steps_per_epoch
        adam = optax.scale_by_adam()
        root = jax.random.key(self._seed)
        kernel = self._init_scale * jax.random.normal(root, (features.shape[1], sum(sizes)))
        initial = {"kernel": kernel, "bias": jnp.full((sum(sizes),), self._bias_init)}
        rates = self._rates
        params = jax.tree.map(lambda p: jnp.broadcast_to(p, (len(rates), *p.shape)), initial)

        def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
            return probe_loss(_split(x @ params["kernel"] + params["bias"], sizes), y, self._smoothing).mean()

        def run_epoch(epoch: jax.Array, carry: Any) -> Any:
            key = jax.random.fold_in(root, epoch)
            order = jax.random.permutation(key, features.shape[0])[: steps_per_epoch * batch]

            def step(carry: Any, inputs: Any) -> tuple[Any, None]:
                params, opt_state = carry
                number, rows = inputs
                keep = jax.random.bernoulli(
                    jax.random.fold_in(key, number), 1 - self._dropout, (batch, features.shape[1])
                )
                x = features[rows] * keep / (1 - self._dropout)
                grads = jax.vmap(jax.grad(loss), in_axes=(0, None, None))(params, x, targets[rows])
                updates, opt_state = jax.vmap(adam.update)(grads, opt_state)
                progress = (epoch * steps_per_epoch + number) / total
                scale = -rates * 0.5 * (1 + jnp.cos(jnp.pi * progress))
                params = jax.tree.map(lambda p, u: p + scale.reshape(-1, *[1] * (p.ndim - 1)) * u, params, updates)
                return (params, opt_state), None

            batches = order.reshape(steps_per_epoch, batch)
            return jax.lax.scan(step, carry, (jnp.arange(steps_per_epoch), batches))[0]

        # All epochs in one program: called by epoch, it would compile anew as the carry's types settle.
        return jax.lax.fori_loop(0, self._epochs, run_epoch, (params, jax.vmap(adam.init)(params)))[0]

    def _accuracy(self, params: Any, features: jax.Array, targets: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
        """Accuracy for each learning rate and target, [R, H]."""
        logits = jnp.einsum("nd,rdc->rnc", features, params["kernel"]) + params["bias"][:, None]
        return np.stack(
            [np.asarray(probe_hits(_split(row, sizes), jnp.asarray(targets))).mean(axis=0) for row in logits]
        )


def _split(logits: jax.Array, sizes: tuple[int, ...]) -> list[jax.Array]:
    return jnp.split(logits, np.cumsum(sizes)[:-1], axis=-1)
