"""What the page shows: a model, images of its data, and what is worked out of them once."""

import dataclasses
import functools

import numpy as np

from soda_jax.api import LoadedModel
from soda_jax.explorer import actions, cameras, reach
from soda_jax.explorer.actions import Sampling
from soda_jax.explorer.downloads import Downloads
from soda_jax.explorer.images import HeldOut
from soda_jax.models.capabilities import offers


@dataclasses.dataclass(frozen=True, eq=False)
class Explorer:
    """A model to explore.

    Attributes:
      model: as `soda_jax.load` gives it.
      held_out: images to draw from; may be none.
      downloads: where files to keep are written.
      title: what the page calls the model.
    """

    model: LoadedModel
    held_out: HeldOut
    downloads: Downloads
    title: str

    @functools.cached_property
    def tabs(self) -> tuple[str, ...]:
        """The names of the tabs that the model can give.

        Raises:
          ValueError: none.
        """
        found = actions.tabs(self.model)
        if not found:
            raise ValueError(f"the explorer has nothing to show of this model, {offers(self.model.inference.model)}")
        return found

    @functools.cached_property
    def strengths(self) -> dict[str, tuple[float, float]]:
        """How far edits along each direction were measured to do what they say; see `reach.measured_strengths`."""
        return reach.measured_strengths(self.model)

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """Codes of the held-out images, float32 [N, d]."""
        return self.model.encode(self.held_out.views)

    @functools.cached_property
    def around(self) -> cameras.Around | None:
        """Cameras like those of the held-out images; None where these have none."""
        return cameras.around(self.held_out)

    def warm_up(self) -> None:
        """Compiles what previews need first, so that the first one of a user comes at once."""
        if len(self.held_out) == 0 or "Reconstruct" not in self.tabs:
            return
        first, preview = self.held_out[0], Sampling().preview()
        actions.reconstruct(self.model, first, preview, actions.PART)
        if "Walk" in self.tabs:
            actions.walk(self.model, first, first, (0.0,), preview)
        if "Edit" in self.tabs and self.model.directions:
            name = next(iter(self.model.directions))
            actions.edit(self.model, first, actions.Edit(name, actions.place(self.model, first, name)), preview)
