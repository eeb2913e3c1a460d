"""Edits images along directions of a model's latent: a strip, an animation, and what each edit did.

    python -m soda_jax.tools.edit --workdir=RUN --fit
    python -m soda_jax.tools.edit --workdir=RUN --list
    python -m soda_jax.tools.edit --workdir=RUN --images=DIR --direction=pca1 --sections=0-3 --sigma=-3:3:7
    python -m soda_jax.tools.edit --workdir=RUN --groups=DIR_WITHOUT,DIR_WITH --name=hat
    python -m soda_jax.tools.edit --workdir=RUN --images=FILE.png --edit=FILE.json

--fit finds directions on the training images of the run: principal components of the latent and of ranges of its
sections, the labels' directions, those of the modulation's weights. --groups makes one from two folders of images. Both
keep them in RUN/directions/STEP. --direction is a name that --list shows, or the file of a direction. Strengths are in
sigma, standard deviations of the real codes along the direction: a list as -2,0,2, or FIRST:LAST:COUNT.

RUN may be what else soda_jax.load takes, as the name of a model that comes with the package. Without --images, held-out
images of the run's own dataset are edited, or the examples beside an export. The strip goes to RUN/edits/NAME.png, of a
model that lies in no folder of yours to edits/NAME.png, and an animation and the scores, NAME.json, beside it. By
default frames start from fresh noise and show what the latent holds; --noise=inverted starts from the noise that gives
the image back, which keeps its detail.

--edit repeats an edit that was downloaded from `tools.explore`: direction, sections, strengths, mode, held directions,
seed, guidance and steps are the file's, in place of their flags.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import numpy as np
from absl import app, flags, logging
from tabulate import tabulate

import soda_jax
from soda_jax import build
from soda_jax import config as config_lib
from soda_jax.api import LoadedModel
from soda_jax.cli import parse_flags
from soda_jax.data.pipeline import eval_batches
from soda_jax.inference import directions as finding
from soda_jax.inference import series
from soda_jax.inference.grids import image_grid
from soda_jax.inference.held_out import SECONDS, animation
from soda_jax.inference.image_files import read_images
from soda_jax.inference.pictures import Picture, write
from soda_jax.latents import scores
from soda_jax.latents.checks import checked_number
from soda_jax.latents.directions import MODES, Direction, hold
from soda_jax.latents.finding import group_direction
from soda_jax.parallel.processes import check_platform
from soda_jax.paths import output_file
from soda_jax.sharing import places
from soda_jax.workdir import directions as files
from soda_jax.workdir import edits
from soda_jax.workdir import export as exports

# What frames start from, and how captions say it.
NOISES = {"fresh": "from z alone: fresh noise, the same in all frames", "inverted": "from each image's inverted noise"}
_MOST_IMAGES = 10_000  # of a group: the paper takes up to so many
_LONGEST_NAME = 24  # of a file, beside its row


def parse_sigma(text: str) -> list[float]:
    """Strengths from "-3:3:7" (first, last, count) or "-2,0,2".

    Raises:
      ValueError: for another form, numbers that are not finite, or a count below 1.
    """
    try:
        if ":" in text:
            first, last, count = text.split(":")
            ends = checked_number(float(first), "first"), checked_number(float(last), "last")
            values = np.linspace(*ends, int(count)).tolist()
        else:
            values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not np.isfinite(values).all():
        raise ValueError(f"--sigma={text}: give strengths as FIRST:LAST:COUNT, as -3:3:7, or as a list, as -2,0,2")
    return values


def held_out(model: LoadedModel, count: int) -> tuple[np.ndarray, list[str]]:
    """The first images of the split that the run's evaluation scores, uint8 [N, h, w, 3], and their places there; of an
    export with examples, these."""
    if exports.is_export(model.workdir) and exports.num_examples(exports.described(model.workdir)["files"]):
        images = model.examples.images[:count]
        return (images[:, 0] if images.ndim == 5 else images), [f"example {i}" for i in range(len(images))]
    dataset = build.dataset(model.config, config_lib.scored_split(model.config))
    batch = next(iter(eval_batches(dataset, build.view_spec(model.config), batch_size=count, limit=count)))
    return batch["source"][batch["mask"], 0], [str(place) for place in batch["index"][batch["mask"]]]


def fit(model: LoadedModel) -> str:
    """Finds directions on the run's training images, keeps them, and says how many."""
    found = finding.of_run(model.config, model.inference, model.variables, model.weights_digest)
    place = finding.keep(found, model.workdir, model.step, model.weights_digest)
    return f"{len(found.directions)} directions and the prior of {len(found.codes)} codes in {place}"


def from_groups(model: LoadedModel, groups: str, name: str) -> str:
    """Makes a direction from the images of one folder to those of another, and keeps it."""
    places = groups.split(",")
    if len(places) != 2 or not name:
        raise ValueError(f"--groups={groups} --name={name}: give two folders, DIR_WITHOUT,DIR_WITH, and a name")
    side = model.config.data.source_resolution
    first, last = (model.encode(read_images(place, side, _MOST_IMAGES, "--groups")[0]) for place in places)
    sections = {"num_sections": series.num_sections(model.inference), "model": model.weights_digest}
    direction = group_direction(first, last, name=name, **sections)
    return f"{direction.describe()}: {files.save(direction, files.folder(model.workdir, model.step))}"


def listed(model: LoadedModel) -> str:
    """The directions that the workdir has of the checkpoint, a line each."""
    lines = [direction.describe() for direction in model.directions.values()]
    return "\n".join(lines or [f"no directions of checkpoint {model.step} yet; find some with --fit"])


def find_direction(model: LoadedModel, text: str) -> Direction:
    """The direction of this name, or in this file."""
    if text in model.directions:
        return model.directions[text]
    if pathlib.Path(text).suffix in (".json", ".npz"):
        return files.load(text, model.weights_digest)
    known = ", ".join(model.directions) or "none yet; find some with --fit"
    raise ValueError(f"--direction={text}: there is no such direction or file; this checkpoint has {known}")


def asked_edit(model: LoadedModel, options: flags.FlagValues) -> edits.StoredEdit:
    """The edit that the file of --edit names, else the flags."""
    if options.edit:
        return edits.load(options.edit, model.weights_digest)
    return edits.StoredEdit(
        options.direction,
        tuple(parse_sigma(options.sigma)),
        options.mode,
        options.sections or None,
        tuple(options.hold),
        options.seed,
        options.sampling_steps,
        options.guidance,
    )


def edit(model: LoadedModel, options: flags.FlagValues) -> str:
    """Draws the strip, writes it and its scores, and returns these as a table."""
    asked_for = asked_edit(model, options)
    sigmas, direction = list(asked_for.sigma), find_direction(model, asked_for.direction)
    sections = asked_for.sections
    limits = {"sections": sections, "mode": asked_for.mode}
    limits["hold"] = [find_direction(model, name) for name in asked_for.hold]
    name = direction.name + (f"_in_{sections}" if sections else "")
    folder = pathlib.Path(model.workdir if places.is_path(options.workdir) else ".")
    default = folder / "edits" / f"{files.file_name(name)}.png"
    path = pathlib.Path(output_file(options.out or default, "--out")).with_suffix(".png")
    if options.images:
        images, names = read_images(options.images, model.config.data.source_resolution, options.num_images)
    else:
        images, names = held_out(model, options.num_images)
    steps = asked_for.sampling_steps
    drawing = {"seed": asked_for.seed, "sampling_steps": steps, "guidance_scale": asked_for.guidance}
    if options.noise == "inverted":
        drawing["start"] = model.invert(images, sampling_steps=steps)
    frames = model.traverse(images, direction, sigmas, **limits, **drawing)
    plain = model.edit(images, {direction: 0.0}, **drawing)
    z = model.encode(images)
    moved = [model.move(z, {direction: sigma}, **limits) for sigma in sigmas]
    asked = np.stack([scores.realised(direction, z, codes) for codes in moved])
    found = measured(model, direction, sections or "", asked, plain, frames)
    report = {"direction": direction.describe(), "sections": sections or "", "noise": options.noise, "images": names}
    held = hold(direction, limits["hold"])[1]
    report |= {"mode": asked_for.mode, "hold": held.cosine, "remaining": held.remaining, "seed": asked_for.seed}
    report |= {"sigma": sigmas} | found
    captions = {"image": images} | {f"{s:+g} sigma": frames[:, i] for i, s in enumerate(sigmas)}
    title = f"{direction.describe()}\n{NOISES[options.noise]}"
    walk = [np.concatenate(list(frames[:, i]), axis=1) for i in range(len(sigmas))] if len(sigmas) > 1 else []
    still = image_grid(captions, rows=_shortened(names), title=title)
    written = write(Picture(still, animation(walk), SECONDS), path)
    path.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    cosines = "".join(f"\nheld: {name}, cosine {cosine:+.3f}" for name, cosine in held.cosine.items())
    return f"{_table(sigmas, found)}{cosines}\n\n{written}; scores in {path.with_suffix('.json')}"


def measured(
    model: LoadedModel,
    direction: Direction,
    sections: str,
    asked: np.ndarray,
    plain: np.ndarray,
    frames: np.ndarray,
) -> dict[str, Any]:
    """What edits did, by the codes of their results: see `latents.scores`.

    Args:
      sections: that moved; "" for the direction's own.
      asked: [S, N], by sigma each image's shift of its code along the direction, in sigma.
      plain: the unedited images, drawn from the same noise.
      frames: [N, S, H, W, 3].

    Returns:
      `slope` (None where nothing was asked), and by sigma the means over images of `asked`, `realised` and `rmse` (of
      pixels in [0, 1]), and `leakage`, None where no section is left alone.
    """
    before = model.encode(plain)
    after = [model.encode(frames[:, i]) for i in range(frames.shape[1])]
    shifts = np.stack([scores.realised(direction, before, codes) for codes in after])
    moved = dataclasses.replace(direction, sections=sections) if sections else direction
    leaks = scores.leaks(moved)
    rmse = np.sqrt(np.mean(np.square((frames.astype(np.float32) - plain[:, None]) / 255.0), axis=(2, 3, 4)))
    return {
        "slope": float(scores.slope(asked, shifts)) if asked.any() else None,
        "asked": asked.mean(axis=1).tolist(),
        "realised": shifts.mean(axis=1).tolist(),
        "leakage": [scores.leakage(moved, before, codes) if leaks else None for codes in after],
        "rmse": rmse.mean(axis=0).tolist(),
    }


def _table(sigmas: list[float], found: dict[str, Any]) -> str:
    columns = ("asked", "realised", "leakage", "rmse")
    rows = [
        [f"{sigma:+g}", *("-" if found[name][i] is None else f"{found[name][i]:.3f}" for name in columns)]
        for i, sigma in enumerate(sigmas)
    ]
    table = tabulate(rows, ["sigma", "asked for", "realised", "leakage", "pixel RMSE"], disable_numparse=True)
    slope = "" if found["slope"] is None else f"\nslope of realised over asked for: {found['slope']:.3f} (1 is ideal)"
    return table + slope


def _shortened(names: list[str]) -> list[str]:
    return [name if len(name) <= _LONGEST_NAME else f"...{name[-_LONGEST_NAME + 3 :]}" for name in names]


def main(options: flags.FlagValues) -> None:
    """Does what the flags ask for; one line for what they get wrong."""
    logging.set_verbosity(logging.WARNING)
    try:
        check_platform()
        if (options.fit or options.groups) and not places.is_path(options.workdir):
            raise ValueError(
                f"--workdir={options.workdir}: directions are kept in the model's folder, and this one is not yours; "
                f"make one: python -m soda_jax.tools.export --workdir={options.workdir} --out=DIR"
            )
        model = soda_jax.load(places.model_folder(options.workdir, "--workdir"), options.step)
        series.require_vector(model.inference, "editing")
        if options.fit:
            print(fit(model))
        if options.groups:
            print(from_groups(model, options.groups, options.name))
        if options.list:
            print(listed(model))
        if options.direction or options.edit:
            print(edit(model, options))
        elif not (options.fit or options.groups or options.list):
            raise ValueError("nothing to do: give --direction, or --edit, --fit, --groups or --list")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the run, or what else soda_jax.load takes.")
    flags.DEFINE_integer("step", None, "Checkpoint; the newest by default.")
    flags.DEFINE_bool("fit", False, "Find directions on the run's training images, and keep them.")
    flags.DEFINE_string("groups", "", "DIR_WITHOUT,DIR_WITH: make a direction from two folders of images; see --name.")
    flags.DEFINE_string("name", "", "What the direction of --groups is called.")
    flags.DEFINE_bool("list", False, "Show the directions that the workdir has of the checkpoint.")
    flags.DEFINE_string("direction", "", "Name or file of the direction to edit along.")
    flags.DEFINE_string("edit", "", "File of an edit that tools.explore gave: in place of the flags that it settles.")
    flags.DEFINE_string("images", "", "Folder of images, or one; by default held-out images of the run's dataset.")
    flags.DEFINE_integer("num_images", 8, "Images at most.", lower_bound=1)
    flags.DEFINE_string("sections", "", "Range of sections that move, as 0-3, 0 the innermost; all by default.")
    flags.DEFINE_string("sigma", "-3:3:7", "Strengths: FIRST:LAST:COUNT, or a list as -2,0,2.")
    flags.DEFINE_enum("mode", "add", list(MODES), "Move by the strengths, or to them.")
    flags.DEFINE_list("hold", [], "Directions along which nothing may move.")
    flags.DEFINE_enum("noise", "fresh", list(NOISES), "What the frames start from.")
    flags.DEFINE_float("guidance", None, "Guidance scale; the config's by default, 1 with --noise=inverted.")
    flags.DEFINE_integer("sampling_steps", None, "Steps of the sampler; the config's by default.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the noise.")
    flags.DEFINE_string("out", "", "The strip to write, .png; by default RUN/edits/NAME.png.")
    flags.mark_flag_as_required("workdir")
    app.run(lambda argv: main(flags.FLAGS), flags_parser=parse_flags)
