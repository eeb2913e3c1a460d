"""Encoding of host arrays of any length, in batches of few sizes; the weights that a config starts from."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Mesh
from ml_collections import ConfigDict

from soda_jax import build, inputs, rngs
from soda_jax.models.capabilities import LATENT, SOURCE, can, require
from soda_jax.models.pose import Camera
from soda_jax.parallel import sharding

Variables = dict[str, Any]


class Encoding:
    """The encoder of one config, and the weights that its whole model starts from.

    Weights come with each call (`params` and `batch_stats`, as `TrainState.ema_variables`), so that one compiled
    program serves every evaluation of a run.

    Args:
      config: the run's config.
      mesh: devices to work on; all by default.
    """

    def __init__(self, config: ConfigDict, mesh: Mesh | None = None):
        self.config = config
        self.mesh = sharding.make_mesh() if mesh is None else mesh
        self.model = build.model(config)
        self.eval_batch_size = sharding.round_up(config.eval.batch_size, self.mesh)
        self._encode = jax.jit(self._encode_batch, static_argnums=2, out_shardings=sharding.replicated(self.mesh))
        self._guide_batch = jax.jit(self._guide_of, out_shardings=sharding.replicated(self.mesh))

    @property
    def num_sections(self) -> int:
        return self.model.num_sections

    def round_up(self, batch_size: int) -> int:
        """The smallest batch size of at least `batch_size` that the devices can share."""
        return sharding.round_up(batch_size, self.mesh)

    def abstract_variables(self) -> Variables:
        """Shapes and placement of the weights, without computing them."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(self.mesh)),
            jax.eval_shape(self._init, jax.random.key(0)),
        )

    def untrained_variables(self) -> Variables:
        """The weights that a run with this config and seed starts from."""
        key = rngs.stream(jax.random.key(self.config.seed), "init", 0)
        return sharding.run_once(self._init, sharding.replicated(self.mesh), key)

    def calibrate(self, variables: Variables, batches: Iterable[dict[str, np.ndarray]]) -> Variables:
        """The weights with BatchNorm statistics measured on `batches`, as an untrained encoder needs them."""
        if not jax.tree.leaves(variables["batch_stats"]):
            return variables  # nothing to measure: an encoder without BatchNorm

        @jax.jit
        def update(variables: Variables, batch: dict[str, jax.Array]) -> Any:
            _, updated = self.model.apply(
                variables,
                inputs.normalise_source(batch["source"]),
                batch["source_mask"],
                jnp.arange(batch["source"].shape[0]),
                **self._source_conditions(batch),
                method="encode",
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return updated.get("batch_stats", {})

        for batch in batches:
            inputs.check_pose_keys(batch, self.model.pose, ("source",))
            variables = variables | {"batch_stats": update(variables, self._put_sources(batch))}
        return variables

    def _init(self, key: jax.Array) -> Variables:
        data = self.config.data
        source = jnp.zeros((1, data.num_sources, data.source_resolution, data.source_resolution, 3))
        target = jnp.zeros((1, data.resolution, data.resolution, 3))
        mask = jnp.ones((1, data.num_sources), bool)
        variables = self.model.init(key, source, mask, target)
        return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}

    def _encode_batch(self, variables: Variables, batch: dict[str, jax.Array], feature: str) -> jax.Array:
        source = inputs.normalise_source(batch["source"])
        z, out = self.model.apply(
            variables, source, batch["source_mask"], **self._source_conditions(batch), method="encode"
        )
        if feature == "z":
            return z
        if feature not in out:
            raise ValueError(f"feature={feature!r}: the encoder names {', '.join(out)}")
        value = rearrange(out[feature], "(b n) ... -> b n ...", b=source.shape[0])
        # Grids and tokens become one vector each by their mean, as the encoder's own pooling does.
        return value.mean(axis=tuple(range(1, value.ndim - 1))) if value.ndim > 2 else value

    def _guide_of(self, variables: Variables, batch: dict[str, jax.Array]) -> jax.Array:
        source = inputs.normalise_source(batch["source"])
        return self.model.apply(variables, source, batch["source_mask"], method="guide")

    def _put_sources(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """What the encoder reads of a batch, of which this process holds its part, on the devices."""
        return sharding.put_batch(self._read(batch), self.mesh)

    def _put_whole(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """What the encoder reads of a batch that every process holds whole, on the devices."""
        return sharding.put_whole_batch(self._read(batch), self.mesh)

    def _read(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        keys = ("source", "source_mask", "source_pose_mask", *inputs.pose_keys(self.model.pose, ("source",)))
        return {key: np.asarray(batch[key]) for key in keys if key in batch}

    def _source_conditions(self, batch: Mapping[str, jax.Array]) -> dict[str, Any]:
        """The source cameras as arguments of `encode`; none if the model or the batch has none."""
        pose = self.model.pose
        known = any(key in batch for key in inputs.pose_keys(pose, ("source",)))
        return inputs.source_conditions(batch, pose) if known else {}

    def _batch_size(self, count: int, largest: int) -> int:
        """Batch size for a request: powers of two up to `largest`, lest one image costs a whole batch's time."""
        return min(largest, sharding.round_up(1 << (count - 1).bit_length(), self.mesh))

    def lower_encoder(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> Any:
        """The program of `encode` for a batch of these shapes and placements, to be compiled."""
        return self._encode.lower(self.abstract_variables(), dict(batch), "z")

    def encode_batches(
        self,
        variables: Variables,
        batches: Iterable[dict[str, np.ndarray]],
        feature: str = "latent",
    ) -> Iterator[np.ndarray]:
        """Features of each global batch, on every host. Batches hold this process's part.

        Read are `source`, `source_mask`, what the model's poses need of the sources, and `source_pose_mask` if given.
        """
        for batch in batches:
            inputs.check_pose_keys(batch, self.model.pose, ("source",))
            yield np.asarray(self._encode(variables, self._put_sources(batch), feature))

    def encode(
        self,
        variables: Variables,
        source: np.ndarray,
        source_mask: np.ndarray | None = None,
        *,
        source_camera: Camera | None = None,
        source_pose_mask: np.ndarray | None = None,
        feature: str = "z",
    ) -> np.ndarray:
        """Latents of uint8 sources [N, n, h, w, 3]: float32 [N, d].

        With several processes every process passes the same sources and gets every latent.

        Args:
          source_mask: [N, n] which sources are present; all by default.
          source_camera: the sources' cameras, leading axes [N, n]; by default their poses are unknown. A model that
            relates poses to the first present source finds it here.
          source_pose_mask: [N, n] False where a source's pose is hidden; none by default.
          feature: "z", or what `encode_batches` takes, [N, d] of any model: "latent" is what probes read.

        Returns:
          [N, d]; tokens [N, K, C] without a bottleneck; a latent for each source, [N, n, d], under stochastic
          conditioning, absent ones zeros.
        """
        require(self.model, LATENT, "encode")
        batch = _sources(source, source_mask)
        if source_camera is not None:
            self._require_pose("source_camera")
            fields = {f"source_{name}": getattr(source_camera, name) for name in self.model.pose.fields}
            batch |= {key: np.asarray(value, np.float32) for key, value in fields.items() if value is not None}
            inputs.check_pose_keys(batch, self.model.pose, ("source",))
            if source_pose_mask is not None:
                batch["source_pose_mask"] = np.asarray(source_pose_mask, bool)
        elif source_pose_mask is not None:
            raise ValueError("source_pose_mask is given, but source_camera is None; give both, or neither")
        return self._of_sources(batch, lambda part: self._encode(variables, part, feature))

    def _of_sources(
        self, batch: dict[str, np.ndarray], function: Callable[[dict[str, jax.Array]], jax.Array]
    ) -> np.ndarray:
        """What `function` gives of a request's sources, computed in padded batches."""
        count, size = len(batch["source"]), self._batch_size(len(batch["source"]), self.eval_batch_size)
        parts = ({key: value[r] for key, value in batch.items()} for r in padded_rows(count, size))
        return np.concatenate([np.asarray(function(self._put_whole(part))) for part in parts])[:count]

    def guide(
        self, variables: Variables, source: np.ndarray, source_mask: np.ndarray | None = None, **conditions: Any
    ) -> np.ndarray:
        """What `sample` takes as z for images of these sources: latents, or the sources as the denoiser sees them.

        Arguments as for `encode`, of which this is the other name where the model has latents.

        Raises:
          ValueError: the model's images have no source.
        """
        require(self.model, SOURCE, "an image of source views")
        if can(self.model, LATENT):
            return self.encode(variables, source, source_mask, **conditions)
        return self._of_sources(_sources(source, source_mask), lambda part: self._guide_batch(variables, part))

    @functools.cached_property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one latent: (d,), or (tokens, channels) without a bottleneck.

        Raises:
          ValueError: the model has none.
        """
        require(self.model, LATENT, "z")
        return self.guide_shape

    @functools.cached_property
    def guide_shape(self) -> tuple[int, ...]:
        """Shape of what guides one image, as `guide` gives it; (0,) where nothing does."""
        if not can(self.model, SOURCE):
            return (0,)
        data = self.config.data
        source = jax.ShapeDtypeStruct(
            (1, data.num_sources, data.source_resolution, data.source_resolution, 3), "float32"
        )
        mask = jax.ShapeDtypeStruct((1, data.num_sources), bool)
        method = "encode" if can(self.model, LATENT) else "guide"
        found = jax.eval_shape(
            functools.partial(self.model.apply, method=method), self.abstract_variables(), source, mask
        )
        return (found[0] if can(self.model, LATENT) else found).shape[1:]

    def _require_pose(self, argument: str) -> None:
        if self.model.pose is None:
            raise ValueError(
                f"{argument} is given, but this model takes no poses (config.model.pose.grid and .vector are 'none'); "
                "leave it out"
            )


def _sources(source: np.ndarray, source_mask: np.ndarray | None) -> dict[str, np.ndarray]:
    """A request's sources, all present by default, under a batch's keys."""
    return {
        "source": source,
        "source_mask": np.ones(source.shape[:2], bool) if source_mask is None else source_mask,
    }


def padded_rows(count: int, size: int) -> np.ndarray:
    """Rows of `count` items in batches of `size`, int [batches, size]; the last item fills the last batch."""
    return np.minimum(np.arange(-(-count // size) * size), count - 1).reshape(-1, size)
