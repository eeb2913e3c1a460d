"""Prints what a config builds: parameters, the latent's sections and FLOPs, without allocating any weight.

python -m soda_jax.tools.describe --config=imagenet [--variant=NAME] [--config.field=value ...]
"""

import sys
from collections.abc import Collection

from absl import app, flags, logging
from ml_collections import ConfigDict

from soda_jax.cli import define_config_flag, given_fields, parse_flags
from soda_jax.config import variants
from soda_jax.parallel.processes import check_platform
from soda_jax.performance.describe import describe


def main(config: ConfigDict, variant: str | None = None, given: Collection[str] = ()) -> None:
    logging.set_verbosity(logging.WARNING)  # JAX reports the accelerators that it does not find
    try:
        check_platform()
        print(describe(variants.chosen(config, variant, given)))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    flag = define_config_flag()
    variant = flags.DEFINE_string("variant", None, "One of the paper's, as 'w/o bottleneck'.")
    flags.mark_flag_as_required("config")
    app.run(lambda argv: main(flag.value, variant.value, given_fields()), flags_parser=parse_flags)
