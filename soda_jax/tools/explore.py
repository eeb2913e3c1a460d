"""Opens a page in the browser to explore a model's latent: reconstruct, walk, edit, mix, resample, novel views.

    python -m soda_jax.tools.explore --workdir=RUN
    python -m soda_jax.tools.explore --model=EXPORT --images=DIR
    python -m soda_jax.tools.explore --model=scenes

--workdir is the folder of a run, --model what else soda_jax.load takes. Held-out images come from the folder of
--images, else from the model, else from the run's dataset. The page answers on this machine alone unless --host says
otherwise. It needs gradio: pip install 'soda-jax[demo]'.
"""

import importlib.util
import pathlib
import sys
import tempfile

from absl import app, flags, logging

import soda_jax
from soda_jax.cli import parse_flags, parse_step
from soda_jax.explorer import images
from soda_jax.explorer.downloads import Downloads
from soda_jax.explorer.explorer import Explorer
from soda_jax.parallel.processes import check_platform
from soda_jax.sharing import places

SHIPPED = "scenes"  # the model that opens where none is named


def check_gradio() -> None:
    """Raises ValueError, with the command that installs it, where gradio is missing."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the explorer needs gradio, which is not installed: pip install 'soda-jax[demo]'")


def explorer(options: flags.FlagValues, folder: pathlib.Path) -> Explorer:
    """The model and the images that the flags name; says where the images come from.

    Args:
      folder: for files that users download.

    Raises:
      ValueError: both --model and --workdir, no such model, or one that has nothing to show; no images in --images.
      FileNotFoundError: no such checkpoint.
    """
    if options.model and options.workdir:
        raise ValueError(f"--model={options.model} and --workdir={options.workdir}: give one of them")
    step = None if options.step == "newest" else parse_step(options.step, "newest, best or a checkpoint's step")
    named, flag = (options.workdir, "--workdir") if options.workdir else (options.model or SHIPPED, "--model")
    model = soda_jax.load(places.model_folder(named, flag), step)
    held_out, said = images.find(model, options.images)
    print(said)
    title = pathlib.Path(named).name or model.config.data.name
    return Explorer(model, held_out, Downloads(folder), title)


def main(options: flags.FlagValues) -> None:
    """Serves the page until it is interrupted; one line for what the flags get wrong."""
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="soda_explore_") as folder:
        try:
            check_gradio()
            check_platform()
            shown = explorer(options, pathlib.Path(folder))
            from soda_jax.explorer import page as pages  # needs gradio

            page = pages.build(shown)
            print("compiling the previews, which takes some seconds")
            shown.warm_up()
            pages.launch(page, server_name=options.host, server_port=options.port, share=options.share)
        except (ValueError, OSError) as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    flags.DEFINE_string("model", "", f"What soda_jax.load takes: an export, or a shipped model; {SHIPPED} by default.")
    flags.DEFINE_string("workdir", "", "Folder of a run, in place of --model.")
    flags.DEFINE_string("step", "newest", "Checkpoint: newest, best or its step.")
    flags.DEFINE_string("images", "", "Folder of images to draw from; by default the model's own held-out ones.")
    flags.DEFINE_string("host", "127.0.0.1", "Address to answer on; 0.0.0.0 lets other machines in.")
    flags.DEFINE_integer("port", None, "Port; by default the first free one from 7860 on.", 1, 65535)
    flags.DEFINE_bool("share", False, "Let gradio open a public address for a week.")
    app.run(lambda argv: main(flags.FLAGS), flags_parser=parse_flags)
