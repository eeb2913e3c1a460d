"""SODA on one category of LSUN (Table 10): ResNet-50 at 256 px, a denoiser at 128 px, latent 2048, source noise .22.

    tfds build lsun --config=bedroom --data_dir=TFDS_DATA_DIR --file_format=array_record
    python -m soda_jax.main --config=configs/lsun.py:bedroom --workdir=... --config.data.root=TFDS_DATA_DIR

Categories: bedroom (3.03M images), church (126K), bird (2.31M), car (5.52M), cat (1.66M), dog (5.05M), horse (2.00M).
TFDS has the official 300 validation images of the two scenes only; of the others 10% are held out for each of
validation and test. The paper used V100s or TPU v2 chips and shows samples of LSUN without numbers; 200,000 steps are
our choice. Not run here.
"""

from ml_collections import ConfigDict

from configs import common

SCENES = {"bedroom": "bedroom", "church": "church_outdoor"}
OBJECTS = ("bird", "car", "cat", "dog", "horse")
ARGUMENTS = (*SCENES, *OBJECTS)


def get_config(category: str = "bedroom") -> ConfigDict:
    """`category`: one of `ARGUMENTS`."""
    common.check_argument("lsun.py", category, ARGUMENTS)
    config = common.get_config()
    common.table_10(config, noise=0.22, encoder="resnet50", learning_rate=4e-4, batch_size=4096, guidance=2.0)
    common.autoencode(config)
    config.train.num_steps = 200_000
    config.data.name = f"lsun/{SCENES.get(category, category)}"
    if category in OBJECTS:
        config.data.train_split, config.data.eval_split = "train[:80%]", "train[80%:90%]"
    config.probe.kind = "none"
    config.eval.evaluators = ("reconstruction",)
    return config
