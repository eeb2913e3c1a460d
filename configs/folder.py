"""SODA on your own images: any folder of JPEG, PNG and WebP files, 64 px targets from 128 px sources.

    python -m soda_jax.main --config=configs/folder.py --workdir=... --config.data.root=DIR
    python -m soda_jax.main --config=configs/folder.py:small --workdir=... --config.data.root=DIR

If DIR has sub-folders named train, validation or test, those are the splits; else a tenth of the files, chosen by a
hash of their paths, is for validation and a tenth for test. The folders below are the classes, or DIR/labels.csv has
classes, attributes and numbers (docs/data.md): the online probe and --mode=evaluate score them; without labels, add
--config.eval.evaluators="('reconstruction',)".
Unreadable files are skipped and listed in the workdir's bad_files.txt. Training ends when the loss on the validation
split has not improved for 20,000 steps, and keeps the best checkpoint. --mode=evaluate scores that split, too; where
there is one for test, --config.data.test_split=test gives figures of images that chose nothing.

`full` is sized for one GPU: ResNet-18, latent 512, a UNet of 128 channels. For other sizes, set
--config.data.resolution=128 --config.data.source_resolution=256 (the first a multiple of 8). For images of faces,
products or scans, whose framing means something, use milder crops: --config.data.crop_scale="(0.5,1.0)".
`small`, for a CPU, is that of cifar10.py: 32 px, 24,000 steps of 16 images, and one group in the denoiser's last norm,
which keeps colours (docs/troubleshooting.md "Pictures are tinted"). On CIFAR-10 it takes 75 minutes of one core, and
k-NN is .58. `full` was not run.
"""

from ml_collections import ConfigDict

from soda_jax.configs import cifar10, common

ARGUMENTS = ("full", "small")


def get_config(size: str = "full") -> ConfigDict:
    """`size`: one of `ARGUMENTS`."""
    common.check_argument("folder.py", size, ARGUMENTS)
    config = cifar10.get_config(size)
    config.data.name = "folder"
    config.data.eval_split = "validation"
    # There may be neither classes to probe nor a test split; the cosine of `small` ends best.
    common.watch(config, "eval/loss", patience=20_000 if size == "full" else 0, test_split="")
    if size == "full":
        config.train.batch_size = 256
        config.train.num_steps = 100_000
        config.train.eval_every = 2_000
        config.optim.learning_rate = 2e-4
        config.model.encoder.small_stem = False
        config.data.resolution = 64
        config.data.source_resolution = 128
        config.data.source_noise = 0.1
        config.data.num_workers = 8
    return config
