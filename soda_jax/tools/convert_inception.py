"""Makes a .npz of the weights of FID's network, which PyTorch saved; neither PyTorch nor code in the file is run.

    python -m soda_jax.tools.convert_inception --weights=pt_inception-2015-12-05-6726825d.pth --output=inception.npz

The weights are in the release "fid_weights" of the GitHub project mseitzer/pytorch-fid. `config.eval.inception_weights`
takes either file; the .npz loads faster and holds only what the features need.
"""

import os
import sys

from absl import app, flags, logging

from soda_jax.cli import parse_flags
from soda_jax.metrics import inception
from soda_jax.parallel.processes import check_platform
from soda_jax.paths import expanded, output_file


def convert(weights: str, output: str) -> str:
    """Converts the file and reads the result back.

    Returns:
      What was done, in a line or two.

    Raises:
      ValueError: there is no such file, it does not hold this network's weights, or `output` is not named .npz.
    """
    weights, output = expanded(weights, "--weights"), output_file(output, "--output")
    if not output.endswith(".npz"):
        raise ValueError(f"output={output!r} must end with .npz")
    if not os.path.isfile(weights):
        raise ValueError(f"weights={weights!r}: there is no such file; get {inception.WHERE}")
    arrays, sha256 = inception.read_pth(weights)
    # Whole or not at all: an interrupted run leaves no file that looks converted.
    inception.write_npz(f"{output}.part", arrays, sha256)
    os.replace(f"{output}.part", output)
    loaded = inception.load_inception(output)
    count = sum(value.size for value in arrays.values())
    lines = [f"{output}: {len(arrays)} arrays, {count / 1e6:.1f} million numbers; SHA-256 of the source {sha256}"]
    if not loaded.is_standard:
        lines.append(
            f"This is not the standard file, whose SHA-256 begins with {inception.STANDARD_SHA256}: distances over "
            "these weights compare with no published FID."
        )
    return "\n".join(lines)


def main(weights: str, output: str) -> None:
    logging.set_verbosity(logging.WARNING)  # JAX reports the accelerators that it does not find
    try:
        check_platform()
        print(convert(weights, output))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    source = flags.DEFINE_string("weights", None, "PyTorch's file, pt_inception-2015-12-05-6726825d.pth.")
    target = flags.DEFINE_string("output", None, "The .npz to write.")
    flags.mark_flags_as_required(["weights", "output"])
    app.run(lambda argv: main(source.value, target.value), flags_parser=parse_flags)
