"""Which exact factors change when one is asked to, and whom they come from when sections are mixed (SODA 4.3.1).

An oracle reads the factors off the drawn images; what the edited image shows is compared with what the unedited one of
the same noise shows, not with the dataset's labels, so that a poor reconstruction is no edit.
"""

import dataclasses

import numpy as np
from tabulate import tabulate

from soda_jax.evaluation.edit_drawing import Drawing
from soda_jax.evaluation.oracle import Oracle
from soda_jax.evaluation.record import Figures
from soda_jax.inference.directions import Found
from soda_jax.latents.directions import move
from soda_jax.latents.finding import label_direction
from soda_jax.latents.sections import range_name, section_of_dim
from soda_jax.latents.walks import take_dims
from soda_jax.metrics.bootstrap import Estimate, mean_estimate

PARENTS = ("first", "second", "neither")


@dataclasses.dataclass(frozen=True, eq=False)
class FactorEdits:
    """Edits of images whose factors an oracle can read.

    Attributes:
      drawing: of latents.
      oracle: that reads images; it knows all of the dataset's factors.
      trusted: those that it reads well enough to be asked about.
      z: [N, d], codes of held-out images.
      base: int [N, F], what it reads off their unedited reconstructions.
    """

    drawing: Drawing
    oracle: Oracle
    trusted: tuple[str, ...]
    z: np.ndarray
    base: np.ndarray

    def read(self, z: np.ndarray) -> np.ndarray:
        """Factors int [N, K, F] of the images of latents z [N, K, d]."""
        images = self.drawing.draw(z)
        return self.oracle.read(images.reshape(-1, *images.shape[2:])).reshape(*z.shape[:2], -1)

    def column(self, factor: str) -> int:
        return self.oracle.names.index(factor)


def change_matrix(edits: FactorEdits, found: Found, *, sigma: float, seed: int = 0) -> Figures:
    """Moves each image toward another class of each factor, drawn at random, and reads which factors changed.

    The direction is that class's in the label probe (`finding.label_direction`), of the whole latent.

    Args:
      found: with the factors' probes.
      sigma: how far each image moves.

    Returns:
      "edits/matrix/ASKED/READ": share of the images in which the oracle reads another class of READ than before;
      "edits/reached/ASKED": share in which it reads the class that was asked for.
    """
    asked = [name for name in edits.trusted if name in found.probes]
    wanted, moved = {}, []
    for name in asked:
        wanted[name], codes = _toward_other_class(edits, found, name, sigma, seed)
        moved.append(codes)
    if not asked:
        return {}
    read = edits.read(np.stack(moved, axis=1))
    figures: Figures = {}
    for row, name in enumerate(asked):
        for other in edits.trusted:
            column = edits.column(other)
            figures[f"edits/matrix/{name}/{other}"] = _share(read[:, row, column] != edits.base[:, column])
    for row, name in enumerate(asked):
        figures[f"edits/reached/{name}"] = _share(read[:, row, edits.column(name)] == wanted[name])
    return figures


def _toward_other_class(
    edits: FactorEdits, found: Found, name: str, sigma: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(the classes asked for [N], none of them what the oracle reads now; codes [N, d] moved toward them)."""
    probe, labels = found.probes[name], found.labels[:, found.names.index(name)]
    present = np.flatnonzero(np.isfinite(probe.bias))
    now = edits.base[:, edits.column(name)]
    rng = np.random.default_rng((seed, edits.column(name)))
    wanted = np.array([rng.choice(present[present != label]) for label in now])
    moved = np.array(edits.z, np.float64)
    for target in np.unique(wanted):
        direction = label_direction(probe, found.codes, labels, name=name, target=int(target))
        rows = wanted == target
        moved[rows] = move(edits.z[rows], {direction: sigma})
    return wanted, moved


def mixing(edits: FactorEdits, num_sections: int) -> Figures:
    """Takes sections 0..c-1 of one image and the rest of the next one, at every cut c, and reads whose factors show.

    Returns:
      "edits/mixing/cut_C/FACTOR/first", "second" and "neither": shares of the pairs whose parents' reconstructions
      differ in the factor. The first gives the inner sections, and the noise.
    """
    second, others = np.roll(edits.z, -1, axis=0), np.roll(edits.base, -1, axis=0)
    section = section_of_dim(edits.z.shape[1], num_sections)
    cuts = range(1, num_sections)
    read = edits.read(np.stack([take_dims(edits.z, second, section >= cut) for cut in cuts], axis=1))
    figures: Figures = {}
    for row, cut in enumerate(cuts):
        for name in edits.trusted:
            column = edits.column(name)
            differ = edits.base[:, column] != others[:, column]
            if not differ.any():
                continue
            shown = read[differ, row, column]
            first, other = shown == edits.base[differ, column], shown == others[differ, column]
            for whose, found in zip(PARENTS, (first, other, ~first & ~other), strict=True):
                figures[f"edits/mixing/cut_{cut}/{name}/{whose}"] = _share(found, "pairs")
    return figures


def tables(figures: Figures, trusted: tuple[str, ...]) -> str:
    """The matrix and the mixing as text, in percent."""

    def percent(name: str) -> str:
        return f"{100 * float(figures[name]):.0f}" if name in figures else "-"

    def parents(cut: int, name: str) -> str:
        return " / ".join(percent(f"edits/mixing/cut_{cut}/{name}/{whose}") for whose in PARENTS)

    matrix = [
        [name, *(percent(f"edits/matrix/{name}/{read}") for read in trusted), percent(f"edits/reached/{name}")]
        for name in trusted
        if f"edits/reached/{name}" in figures
    ]
    cuts = sorted({int(name.split("/")[2].removeprefix("cut_")) for name in figures if name.startswith("edits/mixing")})
    mixed = [[f"{range_name(0, cut - 1)} of the first", *(parents(cut, name) for name in trusted)] for cut in cuts]
    whose = f"sections (% {' / '.join(PARENTS)})"
    found = [(matrix, ["asked (% changed)", *trusted, "reached"]), (mixed, [whose, *trusted])]
    return "\n\n".join(tabulate(rows, headers=headers, disable_numparse=True) for rows, headers in found if rows)


def _share(found: np.ndarray, over: str = "images") -> Estimate:
    return mean_estimate(found.astype(np.float64), over)
