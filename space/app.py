"""The explorer of a shipped model as a Hugging Face Space; see README.md beside this file.

The variable SODA_MODEL of the Space's settings names another shipped model, or the folder of an export in the Space.
"""

import os
import pathlib
import tempfile

import soda_jax
from soda_jax.explorer import images
from soda_jax.explorer import page as pages
from soda_jax.explorer.downloads import Downloads
from soda_jax.explorer.explorer import Explorer

name = os.environ.get("SODA_MODEL", "scenes")
model = soda_jax.load(name)
held_out, said = images.find(model)
print(said)
explorer = Explorer(model, held_out, Downloads(pathlib.Path(tempfile.mkdtemp())), pathlib.Path(name).name)
demo = pages.build(explorer)

if __name__ == "__main__":
    explorer.warm_up()
    pages.launch(demo)
