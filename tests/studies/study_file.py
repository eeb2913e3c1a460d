"""A study that trains for real, in seconds: two rows of the tests' tiny model on `scenes`, two seeds.

SODA_STUDY_CACHE names the folder of the geometry's cache.
"""

import os

from soda_jax.studies.definition import Claim, Row, Size, Study


def get_study() -> Study:
    fields = {
        "eval.evaluators": ("knn", "reconstruction"),
        "eval.knn_k": (5,),
        "eval.baselines": False,
        "eval.train_examples": 64,
        "eval.test_examples": 32,
        "eval.reconstruction_examples": 8,
    }
    columns = {"knn": "knn5/mean", "psnr": "reconstruction/psnr"}
    config = f"tests/tiny_config.py:{os.environ['SODA_STUDY_CACHE']}"
    return Study(
        name="tiny",
        title="A tiny study",
        where="Table 0",
        rows=(Row("SODA"), Row("w/o layer mask", "w/o layer mask")),
        claims=(
            Claim("Masking helps", "SODA", ">", "w/o layer mask", "psnr", "Table 11"),
            Claim("Masking hurts", "SODA", "<", "w/o layer mask", "psnr", "none"),
        ),
        sizes={"cpu": Size(config, columns, fields, seeds=2)},
    )
