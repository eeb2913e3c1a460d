"""Programs of a user's own, which parse no flags, may use worker processes."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = """
import itertools
import numpy as np
from soda_jax import data

class Numbered:
    labels = {}
    def __len__(self): return 6
    def __getitem__(self, index): return {"image": np.full((8, 8, 3), index, np.uint8)}

if __name__ == "__main__":
    spec = data.ViewSpec("same", source_resolution=8, target_resolution=8, augment_source=False, augment_target=False)
    batches = data.train_batches(Numbered(), spec, batch_size=2, seed=0)
    alone, helped = (list(itertools.islice(data.iterate(batches, num_workers=n), 3)) for n in (0, 1))
    assert all(np.array_equal(a["target"], b["target"]) for a, b in zip(alone, helped, strict=True))
    print("the same")
"""


def test_workers_in_a_script_without_flags(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout == "the same\n", done.stderr
