"""A trained model as a Python object: `soda_jax.load(workdir)`. No flags, no TensorFlow, arrays in and out."""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np
from einops import rearrange
from ml_collections import ConfigDict

from soda_jax import build, inputs
from soda_jax import config as config_lib
from soda_jax.inference import examples as held_out
from soda_jax.inference import exported, requests
from soda_jax.inference.cameras import Cameras, source_camera, target_camera
from soda_jax.inference.classification import Head, Prediction
from soda_jax.inference.editing import LatentEditing
from soda_jax.inference.engine import Inference, Variables
from soda_jax.models.capabilities import LATENT, SECTIONS, can, require
from soda_jax.models.modulation import mix_sections
from soda_jax.models.pose import Camera, PoseEncoding, first_present
from soda_jax.parallel import sharding
from soda_jax.sharing.places import model_folder
from soda_jax.workdir import checkpoint
from soda_jax.workdir import export as exports
from soda_jax.workdir.best import checkpoint_step
from soda_jax.workdir.meta import labels_of


def load(
    workdir: str | os.PathLike, step: int | Literal["best"] | None = None, *, devices: list[jax.Device] | None = None
) -> "LoadedModel":
    """Loads the EMA weights of a run, or of an export of one; the config comes with them.

    Args:
      workdir: the run's folder, or one that `python -m soda_jax.tools.export` made; the name of a model that comes with
        the package (`soda_jax.pretrained()` lists them), unless a folder here is called so; hf://ORG/NAME[@REVISION] of
        the Hugging Face hub; or https://.../NAME.zip#sha256=HEX, an archive of an export. Nothing in an export is
        executed, and its files must match their checksums.
      step: which checkpoint, a step or "best" by the metric that training watched (`config.train.monitor`); the newest
        by default.
      devices: those to work on; all by default.

    Raises:
      FileNotFoundError: the folder holds no such checkpoint, or there is no such model.
      ValueError: a newer release wrote it, it is damaged, or it holds no model of this package.
      OSError: it could not be fetched.
    """
    workdir = model_folder(workdir)
    if exports.is_export(workdir):
        return LoadedModel(**exported.read(workdir, step, devices))
    try:
        found, meta = checkpoint.read_meta(workdir, checkpoint_step(workdir, step))
    except (ValueError, OSError):
        raise
    # Nor need a checkpoint that was made up be wrong in a way that anybody thought of.
    except Exception as error:
        raise ValueError(
            f"{workdir} holds a damaged checkpoint, or none of this package ({type(error).__name__}: {error}): "
            "get it again"
        ) from error
    try:
        config = config_lib.from_dict(meta["config"])
        inference = Inference(config, sharding.make_mesh(devices))
        variables = checkpoint.load_ema(workdir, found, inference.abstract_variables())
    except (ValueError, OSError):
        raise
    # A config that nobody wrote with this package can fail in the model's construction in any way.
    except Exception as error:
        raise ValueError(
            f"{workdir}: the config saved with checkpoint {found} describes no model of this package "
            f"({type(error).__name__}: {error})"
        ) from error
    return LoadedModel(config=config, step=found, variables=variables, inference=inference, workdir=workdir, meta=meta)


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedModel(LatentEditing):
    """A trained model; what it does with its latent beside encoding and sampling stands in `LatentEditing`.

    Images are uint8 in 0..255 or float in [0, 1], RGB, [N, H, W, 3] (one source view each) or [N, n, H, W, 3]
    (n views of each). Other sizes are centre-cropped (`config.data.eval_crop`) and resized. What comes back is of the
    kind that went in.

    Requests are served in padded batches of up to `config.eval.batch_size` (encoding) and `config.sampling.batch_size`
    images. The first call of each kind and size compiles.
    """

    step: int
    config: ConfigDict = dataclasses.field(repr=False)
    variables: Variables = dataclasses.field(repr=False)
    inference: Inference = dataclasses.field(repr=False)
    workdir: str | None = dataclasses.field(default=None, repr=False)
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    probe: dict[str, Any] | None = dataclasses.field(default=None, repr=False)  # of an export

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as plain data; what comes back works on all devices of the machine that reads it."""
        plain = (
            self.step,
            config_lib.to_json(self.config),
            jax.device_get(self.variables),
            self.workdir,
            dict(self.meta),
            self.probe,
        )
        return _unpickled, plain

    @property
    def latent_dim(self) -> int:
        return self.inference.latent_shape[-1]

    @property
    def num_sections(self) -> int:
        """Sections of the latent, innermost (pose, structure) first; 0 of a model without them."""
        return self.inference.num_sections if can(self.inference.model, SECTIONS) else 0

    def encode(
        self,
        images: np.ndarray,
        view_mask: np.ndarray | None = None,
        *,
        cameras: Cameras | Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Latents of images, float32 [N, d]; one for each view, [N, n, d], of a model with stochastic conditioning.

        Args:
          view_mask: [N, n] of 0/1 for images [N, n, H, W, 3]; views with 0 are absent, whatever they hold.
          cameras: that took the images, with the same leading axes; by default their poses are unknown.

        Raises:
          ValueError: for images, a mask or cameras that are not as described, or a model that takes no cameras.
        """
        return self._encode(images, view_mask, cameras)[0]

    def classify(
        self,
        images: np.ndarray,
        view_mask: np.ndarray | None = None,
        *,
        cameras: Cameras | Mapping[str, Any] | None = None,
    ) -> dict[str, Prediction]:
        """What the probe that training taught beside the model says of images: a `Prediction` by each label's name.

        Args:
          view_mask, cameras: as for `encode`.

        Raises:
          ValueError: for arguments that are not as described, or a model that was trained without a probe.
        """
        head = self.head
        return head.predict(self._encode(images, view_mask, cameras, "latent")[0])

    @functools.cached_property
    def head(self) -> Head:
        """The probe of the latent; of a run it is read from the checkpoint's training state when it is first asked for.

        Raises:
          ValueError: there is none, or that state is damaged.
        """
        probe = self.probe
        if probe is None and self.workdir is not None and not exports.is_export(self.workdir):
            state = checkpoint.read_probe(self.workdir, self.step)
            if state is not None:
                probe = {name: state[name]["latent"] for name in ("params", "batch_stats")}
        labels = labels_of(self.meta)
        task = build.probe_task(self.config, labels) if labels else None
        if probe is None or task is None:
            raise ValueError("classify needs a probe, and this model was trained without one (config.probe.kind)")
        return Head(task.kind, task.sizes, task.names, labels[task.kind].classes, probe)

    @functools.cached_property
    def examples(self) -> held_out.Examples:
        """Held-out images that lie beside an export, with what is known of them and their latents.

        Raises:
          ValueError: there are none, or they are damaged.
        """
        is_export = self.workdir is not None and exports.is_export(self.workdir)
        found = held_out.read(self.workdir, self.inference) if is_export else None
        if found is None:
            raise ValueError(
                "no examples lie beside this model: python -m soda_jax.tools.export --examples=N puts held-out images "
                "of the run's dataset into an export"
            )
        return found

    def _encode(
        self, images: Any, view_mask: Any, cameras: Any, feature: str = "z"
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(latents, poses [N, 4, 4] of the first present views, None where unknown)."""
        source = requests.source_views(images, self.config.data.source_resolution, self.config.data.eval_crop)
        mask = None if view_mask is None else requests.checked_view_mask(view_mask, source.shape[:2])
        if cameras is None:
            return self.inference.encode(self.variables, source, mask, feature=feature), None
        camera = source_camera(
            cameras, self._pose, images_shape=np.shape(images), resolution=self.config.data.source_resolution
        )
        z = self.inference.encode(self.variables, source, mask, source_camera=camera, feature=feature)
        return z, first_present(camera.pose, np.ones(source.shape[:2], bool) if mask is None else mask)

    @property
    def _pose(self) -> PoseEncoding | None:
        return self.inference.model.pose

    def reconstruct(
        self,
        images: np.ndarray,
        guidance_scale: float | None = None,
        steps: int | None = None,
        *,
        seed: int = 0,
        method: str | None = None,
    ) -> np.ndarray:
        """Encodes images and samples from their latents, [N, H, W, 3] at the model's resolution.

        A model that sees its sources without encoding them samples from these.

        Args:
          guidance_scale: strength s of guidance (the paper: 2 to 3; 1 is none, at half the cost); the config's by
            default.
          steps: sampling steps; the config's by default.
          seed: image i is drawn from (seed, i).
          method: "ddpm" or "ddim"; the config's by default.

        Returns:
          uint8 for uint8 images, float32 in [0, 1] for float images.

        Raises:
          ValueError: for images or settings that are not as described.
        """
        as_float = np.issubdtype(np.asarray(images).dtype, np.floating)
        if can(self.inference.model, LATENT):
            return self.sample(self.encode(images), guidance_scale, steps, seed=seed, method=method, as_float=as_float)
        source = requests.source_views(images, self.config.data.source_resolution, self.config.data.eval_crop)
        options = requests.sampling_options(guidance_scale, steps, seed, 0, method)
        found = self.inference.sample(self.variables, self.inference.guide(self.variables, source), **options)["images"]
        return (found + 1.0) / 2.0 if as_float else inputs.to_uint8(found)

    def novel_view(
        self,
        images: np.ndarray | None = None,
        cameras: Cameras | Mapping[str, Any] | None = None,
        target_cameras: Cameras | Mapping[str, Any] | None = None,
        guidance_scale: float | None = None,
        steps: int | None = None,
        *,
        view_mask: np.ndarray | None = None,
        seed: int = 0,
        first_index: int = 0,
        method: str | None = None,
        guidance_on: str | None = None,
    ) -> np.ndarray:
        """Views of objects from requested cameras.

        Args:
          images: views of each object; None makes up new objects.
          cameras: that took the images, with the same leading axes; None: the images' poses are unknown.
          target_cameras: to see the objects from, poses [N, 4, 4] or [N, m, 4, 4]. Their intrinsics are those of images
            of the size of `images`, cropped and resized like these. None: views of the model's own choice.
          view_mask: as for `encode`.
          guidance_scale, steps, method: as for `reconstruct`.
          seed, first_index: object i is drawn from (seed, first_index + i), the same for all its views.
          guidance_on: "latent", "pose" or "both", what guidance strengthens; the config's by default.

        Returns:
          [N, H, W, 3], or [N, m, H, W, 3] for m target cameras of each object; uint8, or float32 in [0, 1] for float
          images.

        Raises:
          ValueError: for arguments that are not as described, or a model that takes no cameras.
        """
        if images is None and (cameras is not None or view_mask is not None or target_cameras is None):
            raise ValueError("images is None: give images, or target_cameras alone to see new objects from there")
        options = requests.sampling_options(guidance_scale, steps, seed, first_index, method)
        options |= {} if guidance_on is None else {"guidance_on": guidance_on}
        z, reference = (None, None) if images is None else self._encode(images, view_mask, cameras)
        size = None if images is None else np.shape(images)[-3:-1]
        camera = None if target_cameras is None else self._target_camera(target_cameras, size, z, reference)
        views = self._sample_views(z, camera, options)
        as_float = images is not None and np.issubdtype(np.asarray(images).dtype, np.floating)
        return (views + 1.0) / 2.0 if as_float else inputs.to_uint8(views)

    def _target_camera(
        self, cameras: Any, size: tuple[int, int] | None, z: Any, reference: np.ndarray | None
    ) -> Camera:
        """Checked target cameras; their intrinsics are of images of `size` (height, width) where they name none."""
        resolution = self.config.data.resolution
        return target_camera(
            cameras,
            self._pose,
            image_size=(resolution, resolution) if size is None else size,
            resolution=resolution,
            num_objects=None if z is None else len(z),
            reference=reference,
        )

    def _sample_views(self, z: np.ndarray | None, camera: Camera | None, options: dict[str, Any]) -> np.ndarray:
        """Samples in [-1, 1] seen by cameras of leading axes [N] or [N, m]; None leaves the views to the model."""
        if camera is not None and camera.pose.ndim == 4:
            # An object keeps its index, and so its noise, in all of its views.
            shape = camera.pose.shape[:2]
            indices = options["first_index"] + np.arange(shape[0])
            flat = jax.tree.map(lambda x: rearrange(np.asarray(x), "n m ... -> (n m) ..."), camera)
            options = options | {"first_index": 0, "indices": np.repeat(indices, shape[1])}
            views = self._sample_views(None if z is None else np.repeat(z, shape[1], axis=0), flat, options)
            return rearrange(views, "(n m) ... -> n m ...", m=shape[1])
        options = options | {"target_camera": camera}
        if z is None:
            return self.inference.sample_unconditional(self.variables, len(camera.pose), **options)["images"]
        return self.inference.sample(self.variables, z, **options)["images"]

    def sample(
        self,
        z: np.ndarray | None,
        guidance_scale: float | None = None,
        steps: int | None = None,
        *,
        num_images: int | None = None,
        section_mask: np.ndarray | None = None,
        section_choice: np.ndarray | None = None,
        num_frames: int = 0,
        seed: int = 0,
        first_index: int = 0,
        method: str | None = None,
        as_float: bool = False,
    ) -> np.ndarray:
        """Samples images from latents.

        Args:
          z: [N, d] latents; None samples unconditionally (then give `num_images`).
          guidance_scale, steps, method, seed: as for `reconstruct`; image i is drawn from (seed, first_index + i).
          section_mask: [sections] or [N, sections] of 0/1; sections with 0 are left to chance.
          section_choice: int [M, sections]: image i takes section s from z[section_choice[i, s]] (style mixing), and M
            images come out.
          num_frames: return the predictions of x_0 at this many steps on the way, for animations.
          as_float: float32 in [0, 1] instead of uint8.

        Returns:
          [N, H, W, 3], or [num_frames, N, H, W, 3] with the final images last if num_frames > 0.

        Raises:
          ValueError: for latents, masks or settings that are not as described.
        """
        options = requests.sampling_options(guidance_scale, steps, seed, first_index, method)
        options["num_frames"] = num_frames
        if z is None:
            if num_images is None or num_images < 1:
                raise ValueError(f"num_images={num_images}: unconditional sampling (z=None) needs num_images >= 1")
            if section_mask is not None or section_choice is not None:
                raise ValueError("section_mask and section_choice act on latents, but z is None; give z")
            sampled = self.inference.sample_unconditional(self.variables, num_images, **options)
        else:
            z, mask = self._conditions(z, section_choice, section_mask)
            if num_images not in (None, len(z)):
                raise ValueError(f"num_images={num_images}, but {len(z)} are asked for; leave num_images out")
            sampled = self.inference.sample(self.variables, z, mask, **options)
        images = sampled["frames" if num_frames else "images"]
        return (images + 1.0) / 2.0 if as_float else inputs.to_uint8(images)

    def _conditions(self, z: Any, choice: Any, mask: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Checked latents, mixed as `choice` says, and the sections' mask for each of them."""
        if choice is not None or mask is not None:
            require(self.inference.model, SECTIONS, "section_mask" if choice is None else "section_choice")
        keeps_sources = self.inference.model.keeps_sources
        z = requests.checked_latents(z, self.inference.latent_shape, keeps_sources)
        if choice is not None:
            if z.ndim != 2:
                kind = "one for each source view" if keeps_sources else "tokens"
                raise ValueError(
                    f"section_choice needs a latent of sections, but this model's are {kind}; leave it out"
                )
            z = np.asarray(mix_sections(z, requests.checked_section_choice(choice, len(z), self.num_sections)))
        return z, None if mask is None else requests.checked_section_mask(mask, len(z), self.num_sections)


def _unpickled(step: int, config_json: str, variables: Variables, *where: Any) -> LoadedModel:
    config = config_lib.from_dict(json.loads(config_json))
    inference = Inference(config, sharding.make_mesh())
    return LoadedModel(step, config, sharding.put_replicated(variables, inference.mesh), inference, *where)
