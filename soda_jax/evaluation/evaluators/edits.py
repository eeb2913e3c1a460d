"""Edits of the latent, each measured: drawn, encoded again, and compared with what was asked (SODA 4.3, E.3)."""

import warnings

import jax
import numpy as np
from tabulate import tabulate

from soda_jax.data.datasets.cache import cache_dir
from soda_jax.evaluation import oracle
from soda_jax.evaluation.edit_drawing import drawing, held_out
from soda_jax.evaluation.edit_factors import FactorEdits, change_matrix, mixing, tables
from soda_jax.evaluation.edit_scores import DirectionScores, chosen_directions, pixel_rmse, section_map
from soda_jax.evaluation.interface import ImageContext
from soda_jax.evaluation.progress import shown
from soda_jax.evaluation.record import Figures, Results
from soda_jax.inference.directions import Found
from soda_jax.inference.engine import Variables
from soda_jax.inference.series import num_sections, require_vector
from soda_jax.latents.directions import StrengthWarning
from soda_jax.metrics.bootstrap import Estimate, mean_estimate
from soda_jax.models.capabilities import NOISE, can

PER_RANGE = 2  # principal components of each range of sections
MOST_LABELS = 40  # label directions: those of CelebA; of a thousand classes a part
ORACLE_IMAGES = 2000  # held-out real images that the oracle's accuracy is of


class Evaluator:
    """`edits`: what the latent's directions and sections do, by the codes and the factors of edited images.

    Held-out images are encoded, moved along a direction and drawn; each result is encoded again. Its code is compared
    with that of the *unedited* code's drawing, from the same noise and encoded again, too: an encoder that does not
    give its own reconstruction's code back exactly would otherwise show as an edit.

    Figures, with NAME a direction (`config.eval.edits_directions`):

    - edits/NAME/slope, spearman: of realised over requested sigma; edits/NAME/leakage: into untouched sections;
      edits/NAME/safe_low, safe_high: the strengths between which it does what it says (`latents.scores`);
    - edits/NAME/target: change of the label's own probe, edits/NAME/dependency: of the others' (absolute), in standard
      deviations for one sigma; edits/NAME/distance: from the unedited image, LPIPS if `config.eval.image_metrics` has
      it, else the root mean square of pixels in [0, 1], mean over the strengths;
    - edits/guidance_1/NAME/...: the same without guidance, where the config guides;
    - edits/section_K/first, mean: how much one sigma in that section alone changes the image (`section_map`);
    - edits/oracle/FACTOR, edits/reconstructed/FACTOR: how often an oracle of the exact factors reads held-out real
      images, and their reconstructions, right; edits/matrix/ASKED/READ, edits/reached/ASKED and
      edits/mixing/cut_C/FACTOR/first, second, neither (`evaluation.edit_factors`), of the factors that it reads well.

    Raises:
      ValueError: the model's latent is no vector.
    """

    def __init__(self, context: ImageContext):
        require_vector(context.inference, "the evaluator 'edits'")
        self._context, self._settings = context, context.settings
        self.num_images = context.count(self._settings.edits_examples)
        names = [name for name in context.metrics.pairwise if name.startswith("lpips")]
        self._distance = context.metrics.pairwise[names[0]] if names else pixel_rmse

    def run(self, variables: Variables) -> Results:
        settings, context = self._settings, self._context
        components = max(settings.edits_components, PER_RANGE)
        found = context.found(variables, components)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StrengthWarning)  # how far an edit may go is what is measured
            figures = self._directions(variables, found) | self._factors(variables, found)
        return {context.trained: figures}

    def _directions(self, variables: Variables, found: Found) -> Figures:
        settings, context = self._settings, self._context
        directions, lines = chosen_directions(
            found,
            tuple(settings.edits_directions),
            components=settings.edits_components,
            per_range=PER_RANGE,
            most_labels=MOST_LABELS,
        )
        sections = num_sections(context.inference)
        if not sections:
            lines.append("edits: the latent acts as a whole, so there is no leakage, section map or mixing")
        _say(*lines)
        z, _ = held_out(context, variables, settings.edits_examples, "images to edit")
        figures: Figures = {}
        for prefix, scale in self._guidances():
            scored = DirectionScores(
                drawing(context, variables, scale),
                found,
                z,
                tuple(settings.edits_sigmas),
                self._distance,
                settings.edits_least_share,
                settings.edits_most_leakage,
            )
            images, before = scored.unedited()
            rows = []
            for name, direction in shown(directions.items(), "edits", len(directions), unit="direction"):
                own, ratios = scored.figures(direction, images, before)
                figures |= {f"edits/{prefix}{name}/{leaf}": figure for leaf, figure in own.items()}
                rows.append(_row(direction.name, own, ratios))
            _say(f"\nedits{', guidance 1' if prefix else ''}: realised over requested shift\n{_table(rows, settings)}")
            if sections and not prefix:
                figures |= section_map(scored.drawing, z, images, found.codes, sections)
        return figures

    def _guidances(self) -> list[tuple[str, float | None]]:
        """(prefix of names, scale): the config's, and 1 where that is another."""
        inference = self._context.inference
        guided = can(inference.model, NOISE) and inference.config.sampling.guidance_scale != 1
        return [("", None), *([("guidance_1/", 1.0)] if guided else [])]

    def _factors(self, variables: Variables, found: Found) -> Figures:
        settings, context = self._settings, self._context
        reason = self._no_oracle()
        if reason:
            _say(f"edits: no factors are read off the images: {reason}")
            return {}
        reader = oracle.load_or_train(
            context.train(),
            context.spec,
            name=context.dataset_name,
            split=context.train_split,
            steps=settings.edits_oracle_steps,
            folder=cache_dir() / "oracles",
        )
        accuracy = reader.accuracy(context.dataset, context.spec, ORACLE_IMAGES)
        trusted = tuple(name for name, share in accuracy.items() if share.value >= settings.edits_oracle_accuracy)
        _say(*_oracle_lines(accuracy, trusted, settings.edits_oracle_accuracy))
        figures: Figures = {f"edits/oracle/{name}": share for name, share in accuracy.items()}
        if not trusted:
            return figures
        z, factors = held_out(context, variables, settings.edits_factor_examples, "images to change factors of")
        drawn = drawing(context, variables)
        base = reader.read(drawn.draw(z[:, None])[:, 0])
        for name in trusted:
            right = base[:, reader.names.index(name)] == factors[:, reader.names.index(name)]
            figures[f"edits/reconstructed/{name}"] = mean_estimate(right.astype(np.float64))
        edits = FactorEdits(drawn, reader, trusted, z, base)
        changed: Figures = {}
        if found.names == reader.names:
            changed |= change_matrix(edits, found, sigma=settings.edits_factor_sigma, seed=context.seed)
        else:
            _say("edits: no factor-change matrix: config.probe.kind has other labels than 'factors' probed")
        sections = num_sections(context.inference)
        if sections > 1:
            changed |= mixing(edits, sections)
        _say(f"\n{tables(changed, trusted)}")
        return figures | changed

    def _no_oracle(self) -> str:
        """Why an image does not show the dataset's exact factors, or nobody is to read them; "" where it does."""
        spec, settings = self._context.spec, self._settings
        if oracle.KIND not in self._context.dataset.labels:
            return "the dataset has none that are exact"
        if settings.edits_oracle_steps == 0:
            return "config.eval.edits_oracle_steps=0"
        if spec.policy == "class" or (spec.policy == "augment" and spec.augment_target):
            return f"with config.data.view_policy={spec.policy!r} a drawn view need not show them"
        return ""


def _row(name: str, figures: Figures, ratios: np.ndarray) -> list[str]:
    def cell(leaf: str) -> str:
        return f"{float(figures[leaf]):.2f}" if leaf in figures else "-"

    safe = f"{figures['safe_low']:+g} to {figures['safe_high']:+g}"
    leaves = [cell(leaf) for leaf in ("spearman", "leakage", "target", "dependency", "distance")]
    return [name, cell("slope"), *(f"{ratio:.2f}" for ratio in ratios), safe, *leaves]


def _table(rows: list[list[str]], settings: object) -> str:
    sigmas = [f"{sigma:+g}" for sigma in settings.edits_sigmas]
    leaves = ("spearman", "leakage", "target", "dependency", "distance")
    return tabulate(rows, headers=["direction", "slope", *sigmas, "safe", *leaves], disable_numparse=True)


def _oracle_lines(accuracy: dict[str, Estimate], trusted: tuple[str, ...], least: float) -> list[str]:
    shares = ", ".join(f"{name} {100 * share.value:.1f}%" for name, share in accuracy.items())
    left_out = [name for name in accuracy if name not in trusted]
    lines = [f"edits: the oracle reads of held-out real images {shares}"]
    if left_out:
        lines.append(f"edits: it is not asked about {', '.join(left_out)}, below {100 * least:g}%")
    return lines


def _say(*lines: str) -> None:
    for line in lines if jax.process_index() == 0 else ():
        print(line)
