"""The repository's configs/ under a name that can be imported everywhere: `from soda_jax.configs import common`.

A wheel carries the files in this folder (see setup.py); in a checkout they stay in configs/ at its top. Config files
import their kind by this name alone: `configs` itself may be anyone's package in the current folder.
"""

import pathlib

_HERE = pathlib.Path(__file__).parent
FOLDER = _HERE if (_HERE / "common.py").is_file() else pathlib.Path(__file__).resolve().parents[2] / "configs"

__path__ = [str(FOLDER)]
