"""Encoding and sampling of host arrays of any length, in batches of few sizes, for evaluation, grids and the API."""

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
from soda_jax.diffusion.sampler import Masks, sample_in_batches
from soda_jax.inference import sampling
from soda_jax.models.capabilities import DECODE, GUIDANCE, LATENT, NOISE, SOURCE, UNCONDITIONAL, can, require
from soda_jax.models.pose import Camera, PoseEncoding
from soda_jax.parallel import sharding

Variables = dict[str, Any]


class Inference:
    """The encoder and the sampler of one config.

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
        self.sample_batch_size = sharding.round_up(config.sampling.batch_size, self.mesh)
        self._encode = jax.jit(self._encode_batch, static_argnums=2, out_shardings=sharding.replicated(self.mesh))
        self._guide_batch = jax.jit(self._guide_of, out_shardings=sharding.replicated(self.mesh))
        self._decode_batch = jax.jit(
            lambda variables, z, section_mask: self.model.apply(variables, z, section_mask, method="decode")[0],
            out_shardings=sharding.replicated(self.mesh),
        )
        self._samplers: dict[Any, Callable[..., Any]] = {}

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
        placement = sharding.replicated(self.mesh)
        return jax.jit(self._init, out_shardings=placement, compiler_options=sharding.run_once_options())(key)

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
            raise ValueError(f"config.eval.feature={feature!r}: the encoder names {', '.join(out)}")
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
    ) -> np.ndarray:
        """Latents of uint8 sources [N, n, h, w, 3]: float32 [N, d].

        With several processes every process passes the same sources and gets every latent.

        Args:
          source_mask: [N, n] which sources are present; all by default.
          source_camera: the sources' cameras, leading axes [N, n]; by default their poses are unknown. A model that
            relates poses to the first present source finds it here.
          source_pose_mask: [N, n] False where a source's pose is hidden; none by default.

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
        return self._of_sources(batch, lambda part: self._encode(variables, part, "z"))

    def _of_sources(
        self, batch: dict[str, np.ndarray], function: Callable[[dict[str, jax.Array]], jax.Array]
    ) -> np.ndarray:
        """What `function` gives of a request's sources, computed in padded batches."""
        count, size = len(batch["source"]), self._batch_size(len(batch["source"]), self.eval_batch_size)
        parts = ({key: value[r] for key, value in batch.items()} for r in _padded_rows(count, size))
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

    def conditions(self, batch: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
        """A data batch's cameras as keyword arguments of (`encode`, `sample`); none for a model without poses."""
        pose = self.model.pose
        if pose is None:
            return {}, {}
        return (
            {"source_camera": inputs.source_camera(batch, pose)},
            {"target_camera": inputs.target_camera(batch, pose)},
        )

    def sample(
        self,
        variables: Variables,
        z: np.ndarray,
        section_mask: np.ndarray | None = None,
        *,
        target_camera: Camera | None = None,
        pose_mask: np.ndarray | None = None,
        guidance_scale: float | None = None,
        num_steps: int | None = None,
        seed: int = 0,
        first_index: int = 0,
        indices: np.ndarray | None = None,
        **options: Any,
    ) -> dict[str, np.ndarray]:
        """Images for latents z [N, d] (or as `guide` gives them).

        Args:
          section_mask: [N, sections] 0/1, the sections that guide; all by default.
          target_camera: the cameras to show the images from, leading axis [N], with `reference` where the model
            relates poses to a source's; by default the views are the model's own choice.
          pose_mask: [N] 0/1, the images whose target camera counts; all by default.
          guidance_scale, num_steps: `config.sampling`'s by default; a scale of 1 is unguided conditional sampling.
          seed, first_index: image i is drawn from (seed, first_index + i).
          indices: int [N] in place of `first_index`: image i is drawn from (seed, indices[i]), so that several images
            may share their noise.
          **options: `method`, `eta`, `num_frames` of `make_sampler`, `guidance_on` of `sampling.sampler`.

        Returns:
          `images` float32 [N, H, W, 3] in [-1, 1], and `frames` [num_frames, N, H, W, 3] if asked for.

        Raises:
          ValueError: for cameras that the model does not take, or lacks, or guidance that it has not.
        """
        if self.model.pose is None and (target_camera is not None or pose_mask is not None):
            self._require_pose("pose_mask" if target_camera is None else "target_camera")
        if not can(self.model, NOISE):
            given = {"guidance_scale": guidance_scale, "num_steps": num_steps} | options
            for name in [name for name, value in given.items() if value]:
                require(self.model, NOISE, name)
            return self._decode(variables, z, section_mask)
        scale = self._guidance_scale(guidance_scale)
        mask = np.ones((len(z), self.num_sections), np.float32) if section_mask is None else section_mask
        condition: Any = z
        if self.model.pose is not None:
            camera, shown = _shown_camera(self.model.pose, len(z), target_camera, pose_mask)
            condition, mask = sampling.Condition(z, camera), Masks(mask, shown)
        return sample_in_batches(
            # At scale 1 guidance would only double the cost.
            self.sampler(num_steps, guided=scale != 1.0, **options),
            variables,
            jax.random.key(seed),
            condition,
            mask,
            num_images=len(z),
            batch_size=self._batch_size(len(z), self.sample_batch_size),
            first_index=first_index,
            indices=indices,
            guidance_scale=scale,
            sharding=sharding.batch_sharding(self.mesh),
        )

    def _guidance_scale(self, asked: float | None) -> float:
        if not can(self.model, GUIDANCE):
            if asked not in (None, 1.0):
                require(self.model, GUIDANCE, f"guidance_scale={asked}")
            return 1.0
        return self.config.sampling.guidance_scale if asked is None else asked

    def _decode(self, variables: Variables, z: np.ndarray, section_mask: np.ndarray | None) -> dict[str, np.ndarray]:
        """`sample` of a model that makes one image of each latent."""
        require(self.model, DECODE, "an image of a latent")
        mask = np.ones((len(z), self.num_sections), np.float32) if section_mask is None else section_mask
        count, size = len(z), self._batch_size(len(z), self.sample_batch_size)
        parts = (
            sharding.put_whole_batch({"z": np.asarray(z)[r], "section_mask": np.asarray(mask)[r]}, self.mesh)
            for r in _padded_rows(count, size)
        )
        images = np.concatenate([np.asarray(self._decode_batch(variables, **part)) for part in parts])
        return {"images": np.clip(images[:count], -1.0, 1.0)}

    def sample_unconditional(self, variables: Variables, count: int, **options: Any) -> dict[str, np.ndarray]:
        """As `sample`, for `count` images with every section of the latent dropped: with a target camera, new objects
        seen from there.

        Raises:
          ValueError: the model does not sample from noise, or not without a source.
        """
        require(self.model, NOISE, "unconditional sampling")
        require(self.model, UNCONDITIONAL, "unconditional sampling")
        guided_on = options.get("guidance_on") or self.config.sampling.guidance_on
        if options.get("target_camera") is None or guided_on == "latent":
            # Both predictions that guidance compares would be the same one: half of the work is for nothing.
            options = options | {"guidance_scale": 1.0}
        z = np.zeros((count, *self.guide_shape), np.float32)
        return self.sample(variables, z, np.zeros((count, self.num_sections), np.float32), **options)

    def _require_pose(self, argument: str) -> None:
        if self.model.pose is None:
            raise ValueError(
                f"{argument} is given, but this model takes no poses (config.model.pose.grid and .vector are 'none'); "
                "leave it out"
            )

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

    def sampler(self, num_steps: int | None = None, **options: Any) -> Callable[..., Any]:
        """The compiled sampler for these settings, made once."""
        num_steps = self.config.sampling.num_steps if num_steps is None else num_steps
        key = (num_steps, *sorted(options.items()))
        if key not in self._samplers:
            self._samplers[key] = sampling.sampler(self.config, self.model, num_steps=num_steps, **options)
        return self._samplers[key]


def _sources(source: np.ndarray, source_mask: np.ndarray | None) -> dict[str, np.ndarray]:
    """A request's sources, all present by default, under a batch's keys."""
    return {
        "source": source,
        "source_mask": np.ones(source.shape[:2], bool) if source_mask is None else source_mask,
    }


def _padded_rows(count: int, size: int) -> np.ndarray:
    """Rows of `count` items in batches of `size`, int [batches, size]; the last item fills the last batch."""
    return np.minimum(np.arange(-(-count // size) * size), count - 1).reshape(-1, size)


def _shown_camera(
    pose: PoseEncoding, count: int, camera: Camera | None, mask: np.ndarray | None
) -> tuple[Camera, np.ndarray]:
    """(cameras with every field that `pose` reads, which of them count [count] as float32).

    No camera becomes a hidden one, so that one compiled program serves requests with and without cameras.
    """
    if camera is None:
        if mask is not None and np.any(mask):
            raise ValueError("pose_mask shows poses, but target_camera is None; give it")
        eye = np.broadcast_to(np.eye(4, dtype=np.float32), (count, 4, 4))
        four = np.ones((count, 4), np.float32)
        camera = Camera(eye, four, four, eye, np.zeros(count, bool))
        mask = np.zeros(count)
    fields = {name: getattr(camera, name) for name in (*pose.fields, *(("reference",) * pose.needs_reference))}
    missing = [name for name, value in fields.items() if value is None]
    if missing:
        why = " (the pose of the first source, which this model relates targets to)" if "reference" in missing else ""
        raise ValueError(f"target_camera has no {', '.join(missing)}{why}; give it, or no target_camera")
    fields = {name: np.asarray(value, np.float32) for name, value in fields.items()}
    if pose.needs_reference:
        shown = camera.reference_mask
        fields["reference_mask"] = np.ones(count, bool) if shown is None else np.asarray(shown, bool)
    return Camera(**fields), np.ones(count, np.float32) if mask is None else np.asarray(mask, np.float32)
