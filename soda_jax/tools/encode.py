"""Encodes a folder of images with a trained model: features and file names in one .npz file.

    python -m soda_jax.tools.encode --model=RUN --images=DIR --out=z.npz
    python -m soda_jax.tools.encode --model=RUN --images=DIR --out=pooled.npz --feature=pooled --step=best
    python -m soda_jax.tools.encode --model=RUN --images=DIR --out=d.npz --feature=denoiser --block=middle1 --level=0.1

--model is what soda_jax.load takes. DIR is searched through for JPEG, PNG and WebP files, and each is prepared as
--mode=evaluate prepares it. Unreadable files are skipped, and listed beside the result. The folder may have any number
of files: features go to the disk as they come.

The file holds `features` float32 [N, d], `files` [N], paths relative to DIR, and `about`, a JSON text that says what
made it. numpy.load reads it, without pickle.
"""

import errno
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import app, flags, logging

import soda_jax
from soda_jax import build
from soda_jax.api import LoadedModel
from soda_jax.cli import available_cores, parse_flags, parse_step
from soda_jax.evaluation.feature_file import FeatureFile
from soda_jax.evaluation.features import DENOISER_FEATURE
from soda_jax.evaluation.folder_images import FolderImages
from soda_jax.evaluation.progress import num_batches, shown
from soda_jax.inference.denoiser import DenoiserFeatures
from soda_jax.models.capabilities import LATENT, require
from soda_jax.parallel.processes import check_platform
from soda_jax.paths import expanded, output_file
from soda_jax.sharing import places
from soda_jax.version import __version__
from soda_jax.workdir.best import BEST

NEWEST = "newest"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Extract = Callable[[Mapping[str, np.ndarray]], np.ndarray]


def result_file(text: str, overwrite: bool) -> pathlib.Path:
    """The .npz file to write; its folder is made.

    Raises:
      ValueError: another ending, a place that cannot be written, or a file that is there already.
    """
    path = pathlib.Path(output_file(text, "--out"))
    if path.suffix != ".npz":
        raise ValueError(f"--out={text}: give a name that ends in .npz")
    if path.exists() and not overwrite:
        raise ValueError(f"--out={text} exists: give another name, or --overwrite")
    return path


def extractor(model: LoadedModel, feature: str, block: str, level: float) -> Extract:
    """From a batch of `FolderImages` to float32 [B, d].

    Raises:
      ValueError: the model has no such feature, block or noise level.
    """
    inference = model.inference
    if feature == DENOISER_FEATURE:
        features = DenoiserFeatures(inference)
        if block not in features.names:
            raise ValueError(f"--block={block}: --feature={feature} needs one of {', '.join(features.names)}")
        t = features.timestep(level)
        return lambda batch: features(model.variables, batch, t)[block]
    if block:
        raise ValueError(f"--block={block} is of --feature={DENOISER_FEATURE}; leave it out")
    require(inference.model, LATENT, f"--feature={feature}")

    def encoded(batch: Mapping[str, np.ndarray]) -> np.ndarray:
        found = inference.encode(model.variables, batch["source"], batch["source_mask"], feature=feature)
        if found.ndim != 2:
            shape = ", ".join(map(str, found.shape[1:]))
            raise ValueError(f"--feature={feature} of this model is [{shape}] an image; --feature=latent is one vector")
        return found

    return encoded


def encode(options: flags.FlagValues) -> str:
    """Does what the flags ask for, and returns the last line."""
    step = None if options.step == NEWEST else parse_step(options.step, f"{NEWEST}, {BEST} or a checkpoint's step")
    out = result_file(options.out, options.overwrite)
    model = soda_jax.load(places.model_folder(options.model, "--model"), step)
    share = options.max_bad_share
    listed = out.with_suffix(".bad_files.txt")
    images = FolderImages(
        expanded(options.images, "--images"),
        build.view_spec(model.config),
        max_bad_share=model.config.data.max_bad_share if share is None else share,
        bad_files=listed,
        setting="--max_bad_share",
    )
    extract = extractor(model, options.feature, options.block, options.level)
    size = model.inference.round_up(min(len(images), model.inference.eval_batch_size))
    batches = images.batches(size, options.threads or available_cores())
    with FeatureFile(out) as file:
        for batch, files in shown(batches, "encoding", num_batches(len(images), None, size)):
            file.append(extract(batch)[: len(files)], files)
        if not len(file):
            raise ValueError(f"--images={options.images}: none of {len(images)} images can be read; see {listed}")
        file.finish(_about(model, options, images))
        said = f"{len(file)} of {len(images)} images in {out}: float32 [{len(file)}, {file.width}], "
    skipped = images.bad_files.summary()
    said += f"{options.feature} of checkpoint {model.step}"
    return f"{said}. {skipped}" if skipped else f"{said}."


def _about(model: LoadedModel, options: flags.FlagValues, images: FolderImages) -> dict[str, Any]:
    data = model.config.data
    about = {
        "soda_jax": __version__,
        "model": places.shown(options.model),
        "step": model.step,
        "weights": model.weights_digest,
        "feature": options.feature,
        "images": os.path.abspath(expanded(options.images, "--images")),
        "unreadable": len(images.bad_files.names()),
        "source_resolution": data.source_resolution,
        "eval_crop": data.eval_crop,
    }
    return about | ({"block": options.block, "level": options.level} if options.block else {})


def main(options: flags.FlagValues) -> None:
    """Does what the flags ask for; one line for what they get wrong."""
    logging.set_verbosity(logging.WARNING)
    try:
        check_platform()
        print(encode(options))
    except OSError as error:
        if error.errno in _FULL:
            sys.exit(
                f"error: --out={options.out} cannot be written ({error.strerror}); make room, or give another disk"
            )
        sys.exit(f"error: {error}")
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "What soda_jax.load takes: a run's folder, an export's, a name, hf://ORG/NAME.")
    flags.DEFINE_string("images", None, "Folder of images, searched through.")
    flags.DEFINE_string("out", None, "File to write, .npz.")
    flags.DEFINE_string("feature", "latent", "latent, or what else config.eval.feature takes.")
    flags.DEFINE_string("block", "", "With --feature=denoiser: the block.")
    flags.DEFINE_float("level", 0.1, "With --feature=denoiser: its noise, a share of the timesteps.", 0.0, 1.0)
    flags.DEFINE_string("step", NEWEST, f"Checkpoint: {NEWEST}, {BEST} or its step.")
    flags.DEFINE_float("max_bad_share", None, "Share of unreadable files that ends it; the config's by default.", 0, 1)
    flags.DEFINE_integer("threads", None, "That decode; one a core by default.", lower_bound=1)
    flags.DEFINE_bool("overwrite", False, "Replace --out if it is there.")
    for name in ("model", "images", "out"):
        flags.mark_flag_as_required(name)
    app.run(lambda argv: main(flags.FLAGS), flags_parser=parse_flags)
