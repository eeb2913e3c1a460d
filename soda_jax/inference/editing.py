"""Walks and edits of the latent on images, for `soda_jax.load`'s model (SODA 3.2.1, 4.3, Appendix E.3).

Each method encodes, moves codes with `soda_jax.latents`, and samples. The frames of a series share their noise, so what
changes between them is the latent alone. By default the noise is fresh and the frames show what the latent holds ("from
z alone"); `start=model.invert(images)` begins from the noise that gives the images back, so that edits keep what the
latent leaves out.
"""

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from soda_jax import inputs
from soda_jax.inference import requests
from soda_jax.inference.engine import Inference, Variables
from soda_jax.inference.series import draw_series, num_sections, require_vector, slerp
from soda_jax.latents import walks
from soda_jax.latents.directions import Direction, move
from soda_jax.latents.pca import PCA
from soda_jax.latents.sections import dims_of, section_of_dim
from soda_jax.models.capabilities import NOISE, require
from soda_jax.workdir import directions as files
from soda_jax.workdir.digest import digest_of

Strengths = Mapping[Direction | str, float]

_FEW_STEPS = 10  # of an inversion


class LatentEditing:
    """What a loaded model does with its latent, beside encoding and sampling.

    Images are as for `encode`, and what comes back is of their kind: uint8, or float32 in [0, 1] for float images, at
    the model's resolution. Directions are `latents.Direction`s, or names of `directions`. Arguments that all methods
    share:

      seed: image i, and every frame of its series, is drawn from (seed, i).
      guidance_scale, sampling_steps, method: of the sampling; the config's by default.
      start: noise x_T [N, H, W, 3] to start from, as `invert` gives it; sampled by DDIM, unguided by default.
    """

    step: int
    config: ConfigDict
    variables: Variables
    inference: Inference
    workdir: str | None
    meta: Mapping[str, Any]

    @functools.cached_property
    def weights_digest(self) -> str:
        """SHA-256 of the run's float32 EMA weights, which directions are tied to; an export has its original's."""
        return digest_of(self.meta, self.variables)

    @functools.cached_property
    def directions(self) -> dict[str, Direction]:
        """The directions that the workdir has of this checkpoint, by name; `python -m soda_jax.tools.edit --fit` and
        `--mode=sample` with the picture `pca` or `attributes` find them."""
        return (
            {} if self.workdir is None else files.load_all(files.folder(self.workdir, self.step), self.weights_digest)
        )

    def interpolate(
        self, images_a: np.ndarray, images_b: np.ndarray, steps: int = 8, *, start: Any = None, **sampling: Any
    ) -> np.ndarray:
        """Images between pairs of images: z = (1 - l) z_a + l z_b, both ends included.

        Args:
          steps: frames of each series.
          start: a pair of noises, for `images_a` and `images_b`; frames start from the great circle between them.

        Returns:
          [N, steps, H, W, 3].
        """
        z_a, z_b = self._codes(images_a, "interpolate"), self._codes(images_b, "interpolate")
        if len(z_a) != len(z_b):
            raise ValueError(f"images_a are {len(z_a)} and images_b {len(z_b)}; give as many of each")
        walk = walks.interpolate(z_a, z_b, steps=steps)
        if start is not None:
            if not isinstance(start, tuple | list) or len(start) != 2:
                raise ValueError("start: give a pair (noise of images_a, noise of images_b), as `invert` gives them")
            start = slerp(*(self._checked_start(noise, len(z_a)) for noise in start), steps)
        return self._draw(walk, images_a, start=start, **sampling)

    def traverse(
        self,
        images: np.ndarray,
        direction: Direction | str,
        sigmas: Sequence[float] = (-3, -2, -1, 0, 1, 2, 3),
        *,
        sections: str | None = None,
        mode: str = "add",
        hold: Sequence[Direction | str] = (),
        start: np.ndarray | None = None,
        **sampling: Any,
    ) -> np.ndarray:
        """Each image walked along one direction.

        Args:
          sigmas: the frames' strengths, in standard deviations of the real codes along the direction.
          sections, mode, hold: as for `edit`.

        Returns:
          [N, len(sigmas), H, W, 3].

        Raises:
          ValueError: a direction of another model or unknown name, or no sigma.

        Warns:
          latents.directions.StrengthWarning: frames lie beyond the real codes' percentiles.
        """
        z = self._codes(images, "traverse")
        if len(sigmas) == 0:
            raise ValueError("sigmas=(): give at least one strength")
        options = {"sections": sections, "mode": mode, "hold": hold}
        walk = np.stack([self.move(z, {direction: sigma}, **options) for sigma in sigmas], axis=1)
        return self._draw(walk, images, start=start, **sampling)

    def edit(
        self,
        images: np.ndarray,
        strengths: Strengths,
        *,
        sections: str | None = None,
        mode: str = "add",
        hold: Sequence[Direction | str] = (),
        start: np.ndarray | None = None,
        **sampling: Any,
    ) -> np.ndarray:
        """Images moved along one or several directions at once.

        Args:
          strengths, sections, mode, hold: as for `move`.

        Returns:
          [N, H, W, 3].
        """
        z = self._codes(images, "edit")
        moved = self.move(z, strengths, sections=sections, mode=mode, hold=hold)
        return self._draw(moved[:, None], images, start=start, **sampling)[:, 0]

    def move(
        self,
        z: np.ndarray,
        strengths: Strengths,
        *,
        sections: str | None = None,
        mode: str = "add",
        hold: Sequence[Direction | str] = (),
    ) -> np.ndarray:
        """Latents [N, d] moved along directions, for `sample`.

        Args:
          strengths: {direction: sigma}, in standard deviations of the real codes along each direction.
          sections: a range "a-b" of sections that move; the others stay as they are, and of a direction that has a
            part in them only the rest of the way is gone.
          mode: "add" moves by the strengths, "set" to them.
          hold: directions along which nothing may move.

        Raises:
          ValueError: a direction of another model or unknown name, strengths that are not finite, bad sections.

        Warns:
          latents.directions.StrengthWarning: results lie beyond the real codes' percentiles.
        """
        require_vector(self.inference, "move")
        z = requests.checked_latents(z, self.inference.latent_shape, False)
        pairs = [(self._direction(direction), sigma) for direction, sigma in strengths.items()]
        if sections is not None:
            self._range(sections, "an edit")
        moved = move(z, pairs, mode=mode, held=[self._direction(other) for other in hold])
        return (
            moved if sections is None else walks.take_dims(z, moved, dims_of(sections, z.shape[1], self.num_sections))
        )

    def mix(
        self,
        structure_of: np.ndarray,
        style_of: np.ndarray,
        *,
        sections: str | None = None,
        start: np.ndarray | None = None,
        **sampling: Any,
    ) -> np.ndarray:
        """Images with the inner sections (structure, pose) of some and the outer sections (colour, texture) of others.

        Args:
          structure_of, style_of: as many of each.
          sections: the range "a-b" that comes from `structure_of`; the inner half by default.

        Returns:
          [N, H, W, 3].
        """
        z, style = self._codes(structure_of, "mix"), self._codes(style_of, "mix")
        if len(z) != len(style):
            raise ValueError(f"structure_of are {len(z)} and style_of {len(style)}; give as many of each")
        kept = self._range(f"0-{max(self.num_sections // 2 - 1, 0)}" if sections is None else sections, "mix")
        mixed = walks.take_dims(style, z, dims_of(kept, z.shape[1], self.num_sections))
        return self._draw(mixed[:, None], structure_of, start=start, **sampling)[:, 0]

    def resample(self, images: np.ndarray, *, sections: str, num: int = 4, **sampling: Any) -> np.ndarray:
        """Images of which a range of sections is dropped: what these carry is drawn anew, the rest is kept (4.3.1).

        Args:
          sections: the range "a-b" that is dropped.
          num: images of each, with different noise; frame k of image i is drawn from (seed, i * num + k).

        Returns:
          [N, num, H, W, 3].
        """
        require(self.inference.model, NOISE, "resample")
        z = self._codes(images, "resample")
        if num < 1:
            raise ValueError(f"num={num}: give at least 1")
        dropped = dims_of(self._range(sections, "resample"), z.shape[1], self.num_sections)
        section = section_of_dim(z.shape[1], self.num_sections)
        mask = np.array([not dropped[section == s].any() for s in range(self.num_sections)], np.float32)
        drawn = self._draw(np.repeat(z, num, axis=0)[:, None], images, section_mask=mask, **sampling)
        return drawn.reshape(len(z), num, *drawn.shape[2:])

    def invert(self, images: np.ndarray, *, sampling_steps: int | None = None, iterations: int | None = None) -> Any:
        """The noise x_T from which deterministic DDIM gives the images back under their own latents.

        Args:
          images: cropped and resized to the model's resolution.
          sampling_steps: of the walk; sample with the same number. The config's by default; some 50 give an image back,
            and a handful do not.
          iterations: of each step's fixed point; more are closer.

        Returns:
          float32 [N, H, W, 3], for `start` of the other methods.

        Raises:
          ValueError: the model does not sample from noise, or its latent is no vector.
        """
        require(self.inference.model, NOISE, "invert")
        z = self._codes(images, "invert")
        target = requests.source_views(images, self.config.data.resolution, self.config.data.eval_crop)[:, 0]
        options = {} if iterations is None else {"iterations": iterations}
        steps = self.config.sampling.num_steps if sampling_steps is None else sampling_steps
        if steps < _FEW_STEPS:
            warnings.warn(
                f"{steps} steps seldom give an image back; invert, and sample, with sampling_steps=50 or so",
                stacklevel=2,
            )
        return self.inference.invert(self.variables, target, z, num_steps=sampling_steps, **options)

    def sample_prior(
        self, num_images: int, *, truncation: float = 1.0, prior: PCA | None = None, seed: int = 0, **sampling: Any
    ) -> np.ndarray:
        """New images without a source: codes drawn from a Gaussian on the principal components of real codes.

        Args:
          truncation: factor on the codes' distance from the mean code, 0..1; smaller is more typical and less varied.
          prior: `latents.pca.fit_pca` of real codes; the workdir's by default.

        Returns:
          uint8 [num_images, H, W, 3].

        Raises:
          ValueError: there is no prior, or it is of another model.
        """
        require_vector(self.inference, "sample_prior")
        if prior is None:
            if self.workdir is None:
                raise ValueError("the model was loaded without a workdir: give prior=latents.pca.fit_pca(codes)")
            try:
                prior = files.load_prior(files.folder(self.workdir, self.step), self.weights_digest)
            except FileNotFoundError:
                raise ValueError(
                    f"{self.workdir} has no prior of checkpoint {self.step}; fit it with python -m soda_jax.tools.edit "
                    "--fit, or give prior=soda_jax.latents.pca.fit_pca(model.encode(images))"
                ) from None
        width = self.inference.latent_shape[0]
        if len(prior.mean) != width:
            raise ValueError(
                f"the prior has {len(prior.mean)} dimensions and this model's latent {width}: it is of another model"
            )
        z = prior.sample(num_images, seed=seed, truncation=truncation)
        return self._draw(z[:, None], None, seed=seed, **sampling)[:, 0]

    def _codes(self, images: Any, wanted: str) -> np.ndarray:
        require_vector(self.inference, wanted)
        return self.encode(images)

    def _direction(self, direction: Direction | str) -> Direction:
        """The direction, of this model's weights."""
        if isinstance(direction, str):
            if direction not in self.directions:
                known = ", ".join(list(self.directions)[:12]) or "none (python -m soda_jax.tools.edit --fit finds some)"
                raise ValueError(f"there is no direction {direction!r}; this checkpoint has: {known}")
            return self.directions[direction]
        if not isinstance(direction, Direction):
            raise ValueError(f"direction is a {type(direction).__name__}; give a latents Direction or its name")
        if direction.model and direction.model != self.weights_digest:
            raise ValueError(
                f"direction {direction.name!r} is of other weights ({direction.model[:12]}) than this model's "
                f"({self.weights_digest[:12]}); find it again on this model"
            )
        return direction

    def _range(self, sections: str, wanted: str) -> str:
        """A range of sections that the model has."""
        if num_sections(self.inference) == 0:
            remedy = "leave sections out" if wanted == "an edit" else f"{wanted} has nothing to take apart"
            raise ValueError(f"sections={sections!r}: this model's latent acts as a whole, without sections; {remedy}")
        dims_of(sections, self.inference.latent_shape[0], self.num_sections)
        return sections

    def _checked_start(self, start: Any, count: int) -> np.ndarray:
        require(self.inference.model, NOISE, "start")
        start, side = np.asarray(start, np.float32), self.config.data.resolution
        if start.shape != (count, side, side, 3) or not np.isfinite(start).all():
            raise ValueError(
                f"start has shape {start.shape}; give finite noise [{count}, {side}, {side}, 3] of `invert`"
            )
        return start

    def _draw(
        self,
        z: np.ndarray,
        images: np.ndarray | None,
        *,
        start: np.ndarray | None = None,
        section_mask: np.ndarray | None = None,
        guidance_scale: float | None = None,
        sampling_steps: int | None = None,
        seed: int = 0,
        method: str | None = None,
    ) -> np.ndarray:
        """Frames of z [N, F, d], of the kind of `images` (None: uint8)."""
        options = requests.sampling_options(guidance_scale, sampling_steps, seed, 0, method)
        options.pop("first_index")
        if start is not None and np.ndim(start) == 4:
            start = self._checked_start(start, len(z))
        drawn = draw_series(self.inference, self.variables, z, section_mask=section_mask, start=start, **options)
        as_float = images is not None and np.issubdtype(np.asarray(images).dtype, np.floating)
        return (drawn + 1.0) / 2.0 if as_float else inputs.to_uint8(drawn)
