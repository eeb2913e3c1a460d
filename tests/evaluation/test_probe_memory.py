"""Memory of the probes at full size: 50,000 training examples of 2048 features, and four augmented views of each."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TRAIN, TEST, WIDTH, CLASSES, VIEWS = 50_000, 10_000, 2048, 10, 4
EPOCHS = 100
LIMIT_GIB = 24.0

# A process of its own: its peak is no other test's.
SCRIPT = """
import json, os, resource, sys, time
from types import SimpleNamespace
import numpy as np
from soda_jax.evaluation.feature_sets import collect, probe_views
from soda_jax.evaluation.evaluators.few_shot import FewShot
from soda_jax.evaluation.evaluators.knn import KNN
from soda_jax.evaluation.evaluators.linear_probe import OfflineProbe
from tests.evaluation.test_probe_memory import CLASSES, EPOCHS, TEST, TRAIN, VIEWS, WIDTH

task = SimpleNamespace(kind="label", sizes=(CLASSES,), names=("label",))
centres = np.random.default_rng(0).standard_normal((CLASSES, WIDTH), np.float32) / 12
stages = {}

def extracted(count, seed, noise_seed=0):
    def batches():
        labels = np.random.default_rng(seed).integers(0, CLASSES, count)
        noise = np.random.default_rng([seed, noise_seed])
        for start in range(0, count, 256):
            label = labels[start : start + 256]
            features = centres[label] + noise.standard_normal((len(label), WIDTH), np.float32)
            yield {"label": label, "mask": np.ones(len(label), bool), "features": features}
    return collect(batches(), lambda batch: batch["features"], task)

def stage(name, function):
    wall, cpu = time.monotonic(), time.process_time()
    result = function()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    stages[name] = {"wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu, "peak_gib": peak}
    print(name, json.dumps(stages[name]), "load", os.getloadavg(), file=sys.stderr, flush=True)
    return result

train, test = stage("features", lambda: (extracted(TRAIN, 1), extracted(TEST, 2)))
views = stage("views", lambda: probe_views("cached", VIEWS, lambda number: extracted(TRAIN, 1, number + 1)))
probe = OfflineProbe(epochs=EPOCHS)
figures = stage("knn", lambda: KNN((20, 200)).run(train, test))
figures |= stage("linear_probe", lambda: probe.run(train, test, views))
figures |= stage("few_shot", lambda: FewShot(probe, (0.01,), 1).run(train, test))
print(json.dumps({"stages": stages, "figures": {name: float(value) for name, value in figures.items()}}))
"""


@pytest.mark.slow
def test_probes_of_50000_examples_fit_in_24_gib():
    """Classes of unit noise around centres some five standard deviations apart, of which 98 % can be told apart."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert max(stage["peak_gib"] for stage in found["stages"].values()) < LIMIT_GIB
    figures = found["figures"]
    assert figures["knn200/label"] > 0.3 and figures["few_shot_1pct/label"] > 0.2  # chance: 0.1
    assert 0.85 < figures["linear_probe/label"] <= 0.99
