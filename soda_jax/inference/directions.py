"""Directions of a trained model: found on the codes of its own training images, and kept with the checkpoint."""

import dataclasses
import os
import pathlib

import numpy as np
from ml_collections import ConfigDict

from soda_jax import build
from soda_jax.data.datasets import Dataset
from soda_jax.data.pipeline import eval_batches
from soda_jax.data.views import ViewSpec
from soda_jax.inference.engine import Inference, Variables
from soda_jax.inference.series import num_sections, require_vector
from soda_jax.latents.directions import Direction
from soda_jax.latents.finding import label_direction, pca_directions, weight_directions
from soda_jax.latents.pca import PCA, fit_pca
from soda_jax.latents.probing import LabelProbe, fit_probe
from soda_jax.latents.sections import dims_of, thirds
from soda_jax.models.probe import probe_labels
from soda_jax.objectives.probe import ProbeTask
from soda_jax.workdir import directions as files

ORDERED = "factors"  # labels whose classes stand in an order; of others each class has a direction


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What was found in the latent.

    Attributes:
      codes: float32 [N, d], of training images.
      labels: int [N, H], one column a label; H is 0 where the dataset has none.
      names, sizes: of the labels.
      probes: by label, where it has two classes or more among the codes.
      directions: by name.
      prior: the Gaussian of all codes on their principal components.
    """

    codes: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    probes: dict[str, LabelProbe]
    directions: dict[str, Direction]
    prior: PCA

    def of_kind(self, *kinds: str) -> list[Direction]:
        """The directions that were found in one of these ways."""
        return [direction for direction in self.directions.values() if direction.kind in kinds]


def encode_split(
    inference: Inference, variables: Variables, dataset: Dataset, spec: ViewSpec, task: ProbeTask | None, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes float32 [N, d] and labels int [N, H] of at most `count` examples, spread over a split (0: all of it)."""
    codes, labels = [], []
    for batch in eval_batches(dataset, spec, batch_size=inference.eval_batch_size, limit=count or None):
        conditions, _ = inference.conditions(batch)
        z = inference.encode(variables, batch["source"], batch["source_mask"], **conditions)
        real = batch["mask"]
        codes.append(z[real])
        found = np.zeros((len(z), 0), np.int64) if task is None else np.asarray(probe_labels(batch, task.kind))
        labels.append(found[real])
    return np.concatenate(codes), np.concatenate(labels)


def find(
    inference: Inference,
    variables: Variables,
    dataset: Dataset,
    spec: ViewSpec,
    task: ProbeTask | None,
    *,
    model: str,
    count: int,
    components: int,
    ranges: tuple[str, ...] = (),
) -> Found:
    """Encodes training images and finds: principal components of the whole latent and of ranges of its sections, the
    labels' directions, those of the modulation's weights, and the prior.

    Args:
      dataset, spec: the training split and its views.
      task: the labels; None: it has none.
      model: digest of the weights.
      count: images to encode (the paper: 1,000 to 10,000); 0 is all.
      components: principal components of the whole latent and of each range, and directions of the weights.
      ranges: of sections, each "a-b"; () is about a third of them each, where the latent has sections.

    Raises:
      ValueError: the model's latent is no vector, or a range is none of its sections.
    """
    require_vector(inference, "finding directions")
    sections = num_sections(inference)
    if ranges and not sections:
        raise ValueError(f"section ranges {ranges}: this model's latent has no sections; leave them out")
    ranges = ranges or (thirds(sections) if sections else ())
    for text in ranges:
        dims_of(text, inference.latent_shape[0], sections)  # before images are encoded
    codes, labels = encode_split(inference, variables, dataset, spec, task, count)
    tie = {"num_sections": sections, "model": model}
    found: list[Direction] = []
    for text in (None, *ranges):
        found += pca_directions(codes, components, sections=text, **tie)
    names, sizes = ((), ()) if task is None else (tuple(task.names), tuple(task.sizes))
    probes: dict[str, LabelProbe] = {}
    for column, (name, size) in enumerate(zip(names, sizes, strict=True)):
        present = np.unique(labels[:, column])
        if len(present) < 2:
            continue
        probe = probes[name] = fit_probe(codes, labels[:, column], size)
        ordered = size == 2 or task.kind == ORDERED
        for target in (None,) if ordered else present.tolist():
            found.append(label_direction(probe, codes, labels[:, column], name=name, target=target, **tie))
    try:
        projection = inference.model.latent_projection(variables["params"], codes.shape[1])
    except ValueError:
        projection = None  # z acts in another way
    if projection is not None:
        found += weight_directions(projection, codes, components, **tie)
    return Found(codes, labels, names, sizes, probes, {d.name: d for d in found}, fit_pca(codes))


def of_run(
    config: ConfigDict, inference: Inference, variables: Variables, model: str, *, components: int | None = None
) -> Found:
    """`find` on the training split of a run, as `config.sampling` says.

    Args:
      model: digest of the weights (`workdir.digest`).
      components: in place of `config.sampling.pca_components`.
    """
    dataset = build.dataset(config, config.data.train_split)
    settings = config.sampling
    return find(
        inference,
        variables,
        dataset,
        build.view_spec(config),
        build.probe_task(config, dataset.labels),
        model=model,
        count=settings.latent_codes,
        components=settings.pca_components if components is None else components,
        ranges=tuple(settings.section_ranges),
    )


def keep(found: Found, workdir: str | os.PathLike, step: int, model: str) -> pathlib.Path:
    """Writes directions and prior to the checkpoint's folder, which it returns."""
    place = files.folder(workdir, step)
    for direction in found.directions.values():
        files.save(direction, place)
    files.save_prior(found.prior, place, model=model, count=len(found.codes))
    return place
