"""Makes one page of a run: what was trained, curves, pictures, and every figure beside the paper's.

    python -m soda_jax.tools.report --workdir=RUN

It writes RUN/report.html, a page that needs nothing beside it and opens without a network, and RUN/report.md, the same
as Markdown. --dataset names the paper's dataset where config.data.name does not, as for renderings of gso or shapenet.
"""

import sys

from absl import app, flags, logging

from soda_jax.cli import parse_flags
from soda_jax.reporting import page


def main(options: flags.FlagValues) -> None:
    """Writes the pages that `options` ask for and prints where they are."""
    logging.set_verbosity(logging.WARNING)
    try:
        for path in page.write(options.workdir, options.dataset, options.output):
            print(f"written to {path}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_string("dataset", "", "The paper's dataset to compare with; by default the config's.")
    flags.DEFINE_string("output", "", "Folder of the pages; by default the workdir.")
    flags.mark_flag_as_required("workdir")
    app.run(lambda argv: main(flags.FLAGS), flags_parser=parse_flags)
