"""What each tab of the explorer draws: functions of a loaded model that give arrays, without a page.

All draw a few images at a time and call `report(done, total)` after each part, so that a page can show how far they
are. An image is drawn from (seed, its number), as everywhere in the package; frames of a walk share their noise.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from soda_jax import inputs
from soda_jax.api import LoadedModel
from soda_jax.explorer.images import Chosen
from soda_jax.inference.series import has_vector, num_sections, require_vector
from soda_jax.latents import scores, walks
from soda_jax.latents.sections import dims_of, range_name
from soda_jax.models.capabilities import GUIDANCE, NOISE, SOURCE, can, require
from soda_jax.workdir.edits import StoredEdit

Report = Callable[[int, int], None]

PREVIEW_STEPS = 10
PART = 4  # images drawn together: more are faster on accelerators, fewer show sooner how far it is
TABS = ("Reconstruct", "Walk", "Edit", "Mix", "Resample", "Novel view")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How images are drawn; what is None is the config's.

    Attributes:
      steps: of the sampler.
      guidance: scale of guidance; 1 is none.
      seed: of the noise.
      method: "ddpm" or "ddim".
    """

    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    method: str | None = None

    def preview(self) -> "Sampling":
        """The same in few deterministic steps, for an answer at once."""
        return dataclasses.replace(self, steps=min(self.steps or PREVIEW_STEPS, PREVIEW_STEPS), method="ddim")


@dataclasses.dataclass(frozen=True)
class Edit:
    """Where an image is moved to along a direction.

    Attributes:
      direction: its name.
      position: in sigma from the real codes' mean.
      sections: the range "a-b" that moves; None: all.
      hold: names of directions along which nothing may move.
    """

    direction: str
    position: float
    sections: str | None = None
    hold: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Edited:
    """What an edit gave.

    Attributes:
      before, after: uint8 [H, W, 3], from the same noise.
      own: the image's place on the direction, in sigma from the real codes' mean.
      asked: how far its code was moved along the direction, in sigma; less than to the position where sections stay.
      realised: how far `after` lies from `before`, both encoded again.
    """

    before: np.ndarray
    after: np.ndarray
    own: float
    asked: float
    realised: float


def quiet(done: int, total: int) -> None:
    """A report to nobody."""


def tabs(model: LoadedModel) -> tuple[str, ...]:
    """The names of `TABS` that the model can give."""
    vector, sections = has_vector(model.inference), num_sections(model.inference) > 1
    pose = model.inference.model.pose
    there = {
        "Reconstruct": can(model.inference.model, SOURCE),
        "Walk": vector,
        "Edit": vector,
        "Mix": vector and sections,
        "Resample": vector and sections and can(model.inference.model, NOISE),
        "Novel view": pose is not None and pose.needs_cameras,
    }
    return tuple(name for name in TABS if there[name])


def reconstruct(
    model: LoadedModel, chosen: Chosen, sampling: Sampling, noises: int = 1, report: Report = quiet
) -> np.ndarray:
    """The image drawn from its latent under several noises, uint8 [noises, H, W, 3]; one where no noise is drawn."""
    require(model.inference.model, SOURCE, "Reconstruct")
    z = model.inference.guide(model.variables, chosen.views[None])
    count = noises if can(model.inference.model, NOISE) else 1
    return _draw(model, np.repeat(z, count, axis=0), sampling, report, shared=False)


def walk(
    model: LoadedModel,
    first: Chosen,
    second: Chosen,
    shares: Sequence[float],
    sampling: Sampling,
    report: Report = quiet,
) -> np.ndarray:
    """Images on the straight line between two latents, z = (1 - l) z1 + l z2 (SODA Appendix E.3), uint8 [F, H, W, 3].

    Args:
      shares: l of each frame, 0 (the first image) to 1.

    Raises:
      ValueError: the model's latent is no vector, or a share lies outside 0..1.
    """
    require_vector(model.inference, "Walk")
    share = np.asarray(shares, np.float64)
    if share.size == 0 or not ((share >= 0) & (share <= 1)).all():
        raise ValueError(f"shares={shares}: give numbers from 0 (the first image) to 1 (the second)")
    ends = _code(model, first), _code(model, second)
    return _draw(model, ends[0] + share[:, None] * (ends[1] - ends[0]), sampling, report)


def place(model: LoadedModel, chosen: Chosen, direction: str) -> float:
    """Where the image lies on a direction, in sigma from the real codes' mean."""
    return float(model.directions[direction].position(_code(model, chosen))[0])


def edit(model: LoadedModel, chosen: Chosen, asked: Edit, sampling: Sampling, report: Report = quiet) -> Edited:
    """The image before and after an edit.

    Raises:
      ValueError: the model's latent is no vector, the direction is unknown or all of it is held, bad sections.
    """
    direction, z = model.directions[asked.direction], _code(model, chosen)
    moved = _moved(model, z, asked, [asked.position])
    images = _draw(model, np.concatenate([z, moved]), sampling, report)
    codes = model.encode(images)
    return Edited(
        *images,
        own=float(direction.position(z)[0]),
        asked=float(scores.realised(direction, z, moved)[0]),
        realised=float(scores.realised(direction, codes[:1], codes[1:])[0]),
    )


def edit_walk(
    model: LoadedModel,
    chosen: Chosen,
    asked: Edit,
    positions: Sequence[float],
    sampling: Sampling,
    report: Report = quiet,
) -> np.ndarray:
    """The image moved to several positions (in sigma, in place of the edit's own), uint8 [F, H, W, 3]."""
    return _draw(model, _moved(model, _code(model, chosen), asked, positions), sampling, report)


def stored(model: LoadedModel, asked: Edit, sampling: Sampling) -> StoredEdit:
    """The edit as the file that `tools.edit --edit` repeats; its frames are the image before, and after."""
    return StoredEdit(
        direction=asked.direction,
        sigma=(float(asked.position),),
        mode="set",
        sections=asked.sections,
        hold=asked.hold,
        seed=sampling.seed,
        sampling_steps=sampling.steps,
        guidance=sampling.guidance,
        weights=model.weights_digest,
    )


def mix(
    model: LoadedModel, first: Chosen, second: Chosen, cut: int, sampling: Sampling, report: Report = quiet
) -> np.ndarray:
    """The inner sections of one image with the outer sections of another, and the other way round.

    Args:
      cut: how many inner sections come from the structure's image, 1 to all but one.

    Returns:
      uint8 [2, H, W, 3]: structure of the first and style of the second; structure of the second, style of the first.

    Raises:
      ValueError: the latent has fewer than two sections, or the cut leaves one side none.
    """
    require_vector(model.inference, "Mix")
    sections = num_sections(model.inference)
    if not 1 <= cut < sections:
        raise ValueError(f"cut={cut}: the latent has {sections} sections; give 1 to {sections - 1}")
    z = np.concatenate([_code(model, first), _code(model, second)])
    structure = dims_of(range_name(0, cut - 1), z.shape[1], sections)
    return _draw(model, walks.take_dims(z[::-1], z, structure), sampling, report)


def resample(
    model: LoadedModel,
    chosen: Chosen,
    dropped: Sequence[int],
    sampling: Sampling,
    count: int = 4,
    report: Report = quiet,
) -> np.ndarray:
    """Images of which some sections are left to chance (SODA 4.3.1), each with its own noise; uint8 [count, H, W, 3].

    Args:
      dropped: the sections; 0 is the innermost.

    Raises:
      ValueError: the model draws no noise, or a section that it does not have.
    """
    require_vector(model.inference, "Resample")
    require(model.inference.model, NOISE, "Resample")
    sections = num_sections(model.inference)
    if not set(dropped) <= set(range(sections)):
        raise ValueError(f"sections {sorted(dropped)}: the latent has {sections}, 0 to {sections - 1}")
    mask = np.ones((count, sections), np.float32)
    mask[:, list(dropped)] = 0
    return _draw(model, np.repeat(_code(model, chosen), count, axis=0), sampling, report, shared=False, mask=mask)


def _code(model: LoadedModel, chosen: Chosen) -> np.ndarray:
    """float32 [1, d]; cameras are not told, as `tools.edit` tells none either."""
    require_vector(model.inference, "this tab")
    return model.encode(chosen.views[None])


def _moved(model: LoadedModel, z: np.ndarray, asked: Edit, positions: Sequence[float]) -> np.ndarray:
    """float32 [F, d], the code z [1, d] at each position."""
    options: dict[str, Any] = {"sections": asked.sections, "mode": "set", "hold": asked.hold}
    return np.concatenate([model.move(z, {asked.direction: at}, **options) for at in positions]).astype(np.float32)


def _draw(
    model: LoadedModel,
    z: np.ndarray,
    sampling: Sampling,
    report: Report,
    *,
    shared: bool = True,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Images uint8 [F, H, W, 3] of latents [F, ...].

    Args:
      shared: all frames have the noise of image 0; else frame i has that of image i.
      mask: [F, sections] of 0/1, the sections that are kept.
    """
    z, drawn, known = np.asarray(z, np.float32), [], model.inference.model
    options: dict[str, Any] = {}
    if can(known, NOISE):
        options = {"num_steps": sampling.steps, "seed": sampling.seed}
        options |= {"guidance_scale": sampling.guidance} if can(known, GUIDANCE) else {}
        options |= {} if sampling.method is None else {"method": sampling.method}
    for first in range(0, len(z), PART):
        rows = np.arange(first, min(first + PART, len(z)))
        if can(known, NOISE):
            options["indices"] = np.zeros_like(rows) if shared else rows
        part = None if mask is None else mask[rows]
        drawn.append(model.inference.sample(model.variables, z[rows], part, **options)["images"])
        report(int(rows[-1]) + 1, len(z))
    return inputs.to_uint8(np.concatenate(drawn))
