"""Makes a folder to hand on of a run: weights, config, probe, directions and a card, with nothing that could run.

    python -m soda_jax.tools.export --workdir=RUN --out=DIR [--step=best] [--dtype=float32]
    python -m soda_jax.tools.export --workdir=RUN --out=DIR --examples=16 --push=ORG/NAME

`soda_jax.load(DIR)` loads it. The weights are the EMA's; float16 and bfloat16 halve the folder, and the tool prints by
how much the rounding moves features. README.md is a card in the Hugging Face hub's format, which you may edit;
soda.json has the checksums of the other files. Paths of this machine are left out of the config. RUN may be such a
folder itself, or what else soda_jax.load takes, to change its precision or to get a folder of your own.

--evaluation adds figures that `soda_jax.main --mode=evaluate --model=DIR --workdir=OTHER` measured of an export.

--examples puts so many held-out images of the run's test split beside the model, spread over its classes, with labels,
cameras and latents, for `model.examples`; of a dataset of objects seen by cameras, so many objects in --example_views
views each. They go wherever the folder goes: see that the dataset's licence lets them, and name it with
--example_license. --push uploads the folder to the hub, from where `soda_jax.load("hf://ORG/NAME")` loads it.
"""

import dataclasses
import pathlib
import sys
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

import soda_jax
from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.api import LoadedModel
from soda_jax.cli import parse_flags, parse_step
from soda_jax.inference import examples as held_out
from soda_jax.models.capabilities import LATENT, can
from soda_jax.parallel.processes import check_platform
from soda_jax.paths import run_folder
from soda_jax.reporting import card
from soda_jax.sharing import hub, places
from soda_jax.workdir import directions as files
from soda_jax.workdir import examples as example_files
from soda_jax.workdir import export as exports
from soda_jax.workdir.meta import labels_meta

# The largest change of features, relative to their size, that each precision may make.
BOUNDS = {"float16": 1e-2, "bfloat16": 1e-1, "float32": 1e-5}
_CHECKED = 4  # images


def export_of(model: LoadedModel, license_id: str = "") -> exports.Export:
    """What a loaded model has to hand on; what it lacks is named on standard output."""
    is_export = exports.is_export(model.workdir)
    labels = {key: model.meta[key] for key in ("targets", "labels")} if is_export else labels_of_run(model)
    described = dict(model.meta["about"]) if is_export else card.about(model.workdir, model.step, model.weights_digest)
    try:
        probe = jax.tree.map(np.asarray, model.head.variables)
    except ValueError as error:
        probe = None
        print(f"without a probe: {error}")
    return exports.Export(
        step=model.step,
        config=config_lib.portable(model.config),
        weights_digest=model.weights_digest,
        variables=jax.device_get(model.variables),
        probe=probe,
        labels=labels,
        about=described | ({"license": license_id} if license_id else {}),
        directions=directions_of(model),
        examples=example_files.contents(model.workdir) if is_export else {},
    )


def labels_of_run(model: LoadedModel) -> dict[str, Any]:
    """The labels of a run's dataset. Checkpoints before the names were kept take them from the dataset, if it is here
    and still has as many classes."""
    found = {"targets": model.meta["targets"], "labels": model.meta.get("labels", {})}
    if found["targets"] and not found["labels"]:
        try:
            here = labels_meta(build.dataset(model.config, model.config.data.train_split).labels)
        except (ValueError, OSError) as error:
            print(f"classes by number, as the dataset with their names is not here ({error})")
            return found
        if here["targets"] == found["targets"]:
            return here
        print("classes by number, as the dataset has other labels now")
    return found


def directions_of(model: LoadedModel) -> dict[str, bytes]:
    """The files of the checkpoint's directions and prior, which are read once to see that they are sound."""
    place = files.folder(model.workdir, model.step)
    names = files.names(place)
    files.load_all(place, model.weights_digest)
    if (place / f"{files.PRIOR}.json").exists():
        files.load_prior(place, model.weights_digest)
        names.append(files.PRIOR)
    paths = (place / f"{name}{suffix}" for name in names for suffix in (".json", ".npz"))
    return {f"directions/{place.name}/{path.name}": path.read_bytes() for path in paths}


def examples_of(model: LoadedModel, count: int, views: int, license_id: str = "", credit: str = "") -> dict[str, bytes]:
    """The files of `count` held-out examples of the run's test split, with their latents; {} for none.

    Raises:
      ValueError, OSError: the dataset is not here, or none of its images can be read.
    """
    if count == 0:
        return {}
    split = config_lib.scored_split(model.config)
    dataset = build.dataset(model.config, split)
    credit = credit or f"{model.config.data.name}, split {split}"
    spec = build.view_spec(model.config)
    found = held_out.taken(dataset, spec, count, views=views, credit=credit, license_id=license_id)
    if len(found.images) < count:
        print(f"{len(found.images)} examples, not {count}: the split has no more that can be read")
    if can(model.inference.model, LATENT):
        pose = model.inference.model.pose
        cameras = None
        if found.poses is not None and pose is not None and pose.needs_cameras:
            cameras = soda_jax.Cameras(found.poses, found.intrinsics)
        found = dataclasses.replace(found, codes=model.encode(found.images, cameras=cameras))
    return example_files.to_files(found, model.weights_digest)


def difference(model: LoadedModel, folder: pathlib.Path) -> float | None:
    """By how much the folder's features differ from the model's, relative to their size; None without features."""
    again = soda_jax.load(folder)
    if not can(model.inference.model, LATENT):
        return None
    side = model.config.data.source_resolution
    images = np.random.default_rng(0).integers(0, 256, (_CHECKED, side, side, 3), np.uint8)
    ours = model.encode(images)
    theirs = dataclasses.replace(model, variables=again.variables).encode(images)  # by the program that is compiled
    return float(np.linalg.norm(theirs - ours) / max(np.linalg.norm(ours), 1e-12))


def main(options: flags.FlagValues) -> None:
    """Writes the folder, loads it again, and says what it is."""
    logging.set_verbosity(logging.WARNING)
    try:
        check_platform()
        out = pathlib.Path(run_folder(options.out, "--out"))
        if options.push:
            hub.check_push(options.push)
        step = None if options.step == "newest" else parse_step(options.step, "a checkpoint's step, newest or best")
        model = soda_jax.load(places.model_folder(options.workdir, "--workdir"), step)
        export = export_of(model, options.license)
        if options.examples is not None:
            chosen = (options.examples, options.example_views, options.example_license, options.example_credit)
            export = dataclasses.replace(export, examples=examples_of(model, *chosen))
        for path in options.evaluation:
            export = card.with_evaluation(export, pathlib.Path(path))
        exports.write(out, export, options.dtype, card.render(export, options.dtype))
        moved = difference(model, out)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"step {model.step} in {options.dtype}, {size / 1e6:,.1f} MB, written to {out}")
    if moved is not None:
        print(f"its features differ from the run's by {moved:.2g}, relative to their size")
        if not moved <= BOUNDS[options.dtype]:
            sys.exit(f"error: that is more than {BOUNDS[options.dtype]:g}; use --dtype=float32")
    if options.push:
        try:
            print(f"pushed: soda_jax.load({hub.push(out, options.push)!r}) loads it")
        except (ValueError, OSError) as error:
            sys.exit(f"error: {error}\nThe folder {out} is whole: `hf upload {options.push} {out}` uploads it")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the run, or of an export, or what else soda_jax.load takes.")
    flags.DEFINE_string("out", None, "Folder to write; it must not exist, or be empty.")
    flags.DEFINE_string("step", "newest", "Checkpoint: a step, newest, or best (config.train.monitor).")
    flags.DEFINE_enum("dtype", "float16", list(exports.DTYPES), "Precision of the weights.")
    flags.DEFINE_multi_string(
        "evaluation", [], "evaluation_STEP.json of the model, for the card, beside that of the run's folder."
    )
    flags.DEFINE_string("license", "", "Of the weights, as the hub names it, e.g. apache-2.0; by default none is said.")
    flags.DEFINE_integer("examples", None, "Held-out images beside it; by default those that an export has.", 0)
    flags.DEFINE_integer("example_views", 4, "Of each example, where the dataset has objects seen by cameras.", 1)
    flags.DEFINE_string("example_license", "", "Of the examples, as the hub names it; by default none is said.")
    flags.DEFINE_string("example_credit", "", "Where the examples come from; the dataset's name and split by default.")
    flags.DEFINE_string("push", "", "ORG/NAME: upload the folder to this repository of the Hugging Face hub.")
    flags.mark_flags_as_required(["workdir", "out"])
    app.run(lambda argv: main(flags.FLAGS), flags_parser=parse_flags)
