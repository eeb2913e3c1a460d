"""What each dataset is made from: official files, where they come from, their checksums, and how many examples result.

Addresses are those that the datasets' authors give; "unverified" marks what we have not seen confirmed by a second
source. Checksums and counts name their source.
"""

import dataclasses

_TFDS_SUMS = "TFDS 4.9.10, url_checksums"


@dataclasses.dataclass(frozen=True)
class File:
    """One file that the user has to get.

    Attributes:
        name: its name in the manual folder.
        url: where it comes from.
        size: in bytes, 0 if unknown.
        checksum: "md5:..." or "sha256:..."; "" where none is published.
        source: of the checksum.
        note: what else there is to know.
        gives: what exists below the manual folder once it is unpacked; "" if it is read as it is.
        into: folder below the manual folder that it is unpacked into.
        optional: whether the dataset can be prepared without it.
    """

    name: str
    url: str
    size: int = 0
    checksum: str = ""
    source: str = ""
    note: str = ""
    gives: str = ""
    into: str = ""
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset that `prepare_data` prepares.

    Attributes:
        name: TFDS's name, with its config.
        title: in a few words.
        counts: number of records in every split; empty where the archive's own lists decide.
        files: what our builder reads from the manual folder, or TFDS's builder does not download itself.
        downloads: what TFDS's builder downloads itself, or takes from the manual folder if it lies there.
        own: whether our own builder prepares it, without TensorFlow.
        packages: that TFDS's builder needs besides TensorFlow.
    """

    name: str
    title: str
    counts: dict[str, int]
    files: tuple[File, ...] = ()
    downloads: tuple[File, ...] = ()
    own: bool = False
    packages: tuple[str, ...] = ()

    @property
    def download_size(self) -> int:
        return sum(file.size for file in (*self.files, *self.downloads) if not file.optional)


def _download(url: str, size: int, sha256: str) -> File:
    return File(url.rpartition("/")[2], url, size, f"sha256:{sha256}", _TFDS_SUMS)


def _mpi3d(config: str, file: str, url: str, md5: str = "", note: str = "") -> Dataset:
    count = 460_800 if config == "complex" else 1_036_800
    tenth = count // 10
    return Dataset(
        name=f"mpi3d/{config}",
        title=f"MPI3D, {config}; 80/10/10",
        counts={"train": count - 2 * tenth, "validation": tenth, "test": tenth},
        files=(
            File(
                file,
                url,
                checksum=f"md5:{md5}" if md5 else "",
                source="github.com/nmichlo/disent, data/_groundtruth__mpi3d.py" if md5 else "",
                note=note,
            ),
        ),
        own=True,
    )


def _lsun(category: str, train: int, *archives: tuple[str, int, str]) -> Dataset:
    # Counts: tensorflow.org/datasets/catalog/lsun.
    scene = len(archives) == 2
    folder = "scenes" if scene else "objects"
    return Dataset(
        name=f"lsun/{category}",
        title=f"LSUN, {category}" + ("" if scene else "; one split, read as 80/10/10"),
        counts={"train": train, "validation": 300} if scene else {"train": train},
        files=tuple(
            File(
                name,
                f"http://dl.yf.io/lsun/{folder}/{name}",
                size,
                f"sha256:{sha256}",
                _TFDS_SUMS,
                gives=f"{name.removesuffix('.zip')}/data.mdb",
            )
            for name, size, sha256 in archives
        ),
        own=True,
    )


def _rendered(name: str, title: str, models: str) -> Dataset:
    return Dataset(
        name=name,
        title=f"{title}, rendered; 80/10/10 of the objects",
        counts={},
        files=(
            File(
                "splits.json",
                models,
                note="render them: python -m soda_jax.tools.render_objects --meshes=MODELS --out=THAT_FOLDER "
                "--views=120 --resolution=256",
            ),
        ),
        own=True,
    )


_FLOWERS_URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
_NORB_URL = "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small"
_NORB_TRAIN, _NORB_TEST = "5x46789x9x18x6x2x96x96-training", "5x01235x9x18x6x2x96x96-testing"
_NORB_FILES = (
    (f"{_NORB_TRAIN}-cat", 348, "2784e542c1922060691090952b6cd6278879a216c90f81476f0f00256d42cdaa"),
    (f"{_NORB_TRAIN}-dat", 131_896_188, "5ffd6272a07d32695ee1082a26a41a93a37aab8c28da047f8c34ed348d214873"),
    (f"{_NORB_TRAIN}-info", 71_052, "de7eb932ebe7a4ee16217fead60660d0eb3d23632c2f4d1c51f88c501c17bf32"),
    (f"{_NORB_TEST}-cat", 347, "ecaf6d5bb8c3bc5eab9cf0258f6d2198dd474e016e374836fc097f2e5ff509ff"),
    (f"{_NORB_TEST}-dat", 130_799_817, "cf7104eed3e51174d2f65b66d1e5878b9da233b886f161b0d88f4510ba2c7474"),
    (f"{_NORB_TEST}-info", 10_428, "16adf314226327ee006d1a44db8cfef52773c06c829951d5653a9f6f310248a2"),
)
_MPI3D_URL = "https://storage.googleapis.com/disentanglement_dataset/Final_Dataset"

_ENTRIES = (
    Dataset(
        "imagenet2012",
        "ImageNet-1K",
        {"train": 1_281_167, "validation": 50_000},
        (
            File(
                "ILSVRC2012_img_train.tar",
                "https://image-net.org/download-images",
                147_897_477_120,
                "md5:1d675b47d978889d74fa0da5fadfb00e",
                "image-net.org's download page, as quoted by torchvision's datasets/imagenet.py",
                note="after registering",
            ),
            File(
                "ILSVRC2012_img_val.tar",
                "https://image-net.org/download-images",
                6_744_924_160,
                "md5:29b22e2961454d5413ddabcf34fc5622",
                "image-net.org's download page, as quoted by torchvision's datasets/imagenet.py",
                note="after registering",
            ),
        ),
        packages=("importlib_resources",),
    ),
    Dataset(
        "celeba_hq",
        "CelebA-HQ with CelebA's attributes and splits",
        # CelebA's partition through the mapping.
        {"train": 24_183, "validation": 2_993, "test": 2_824},
        (
            File(
                "CelebAMask-HQ.zip",
                "https://drive.google.com/open?id=1badu11NqxGf6qM3PTTooQDJvQbejgbTv",
                note="the link of github.com/switchablenorms/CelebAMask-HQ; no checksum is published",
                gives="CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt",
            ),
        ),
        own=True,
    ),
    _lsun(
        "bedroom",
        3_033_042,
        ("bedroom_train_lmdb.zip", 45_922_737_680, "a15644c2e7153106867f0adb3491fc41224102d1f01b24494fb47d9f5d1f174e"),
        ("bedroom_val_lmdb.zip", 4_670_661, "5d022e781b241c25ec2e1f1f769afcdb8091d7fd58362667aec03137b8114b12"),
    ),
    _lsun(
        "church_outdoor",
        126_227,
        (
            "church_outdoor_train_lmdb.zip",
            2_448_463_466,
            "91128ae026840ac0c5982b4445ab5fc4e092d6847cca76793b2b1a0815c2e74a",
        ),
        ("church_outdoor_val_lmdb.zip", 5_957_308, "34635b7547a3e51a15f942a4a4082dd6bc9cca381a953515cb2275c0eed50584"),
    ),
    _lsun(
        "bird",
        2_310_362,
        ("bird.zip", 69_904_880_212, "efe761e1f6aea5908e22d86c52c3604800448ac954242e8a486c57cb46d5a40f"),
    ),
    _lsun(
        "car",
        5_520_756,
        ("car.zip", 185_788_496_846, "e6bd5b23b461177b69a5abd1b301fc41dd1c8fd719f389daf2d10f8b1098ba43"),
    ),
    _lsun(
        "cat",
        1_657_266,
        ("cat.zip", 44_765_061_710, "cef7d1926d80f271ccfe2c55a610a1f9958eb2ac0bd188ddbe3cceb571eb9877"),
    ),
    _lsun(
        "dog",
        5_054_817,
        ("dog.zip", 155_606_131_278, "dab08a84ce3facb2ac7261f58c1eea7f070a6d118b82f9778b6a1cf56ed15db4"),
    ),
    _lsun(
        "horse",
        2_000_340,
        ("horse.zip", 73_864_289_242, "2ec7893f3308da7f68cc2bdb1e9a75cde7abf842628feea1c49c30006e9c3a1b"),
    ),
    # Counts of AFHQ: StarGAN v2's supplement (v1: 500 a class held out); EDM's dataset statistics (v2: 15,803 images).
    Dataset(
        "afhq/v2",
        "Animal Faces-HQ, version 2",
        {"train": 14_336, "test": 1_467},
        (
            File(
                "afhq_v2.zip",
                "https://www.dropbox.com/s/vkzjokiwof5h8w6/afhq_v2.zip?dl=1",
                note="the link of StarGAN v2's download.sh; no checksum is published",
                gives="afhq_v2/test/cat",
                into="afhq_v2",
            ),
        ),
        own=True,
    ),
    Dataset(
        "afhq/v1",
        "Animal Faces-HQ, version 1",
        {"train": 14_630, "test": 1_500},
        (
            File(
                "afhq.zip",
                "https://www.dropbox.com/s/t9l9o3vsx2jai3z/afhq.zip?dl=1",
                note="the link of StarGAN v2's download.sh; no checksum is published",
                gives="afhq/val/cat",
            ),
        ),
        own=True,
    ),
    Dataset(
        "oxford_flowers102",
        "Oxford Flowers 102",
        {"train": 1_020, "validation": 1_020, "test": 6_149},
        downloads=(
            _download(
                f"{_FLOWERS_URL}/102flowers.tgz",
                344_862_509,
                "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
            ),
            _download(
                f"{_FLOWERS_URL}/imagelabels.mat",
                502,
                "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
            ),
            _download(
                f"{_FLOWERS_URL}/setid.mat",
                14_989,
                "46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
            ),
        ),
        packages=("scipy",),
    ),
    Dataset(
        "nmr",
        "NMR: ShapeNet in 24 views, 13 classes",
        {},
        (
            File(
                "NMR_Dataset.zip",
                "https://s3.eu-central-1.amazonaws.com/avg-projects/differentiable_volumetric_rendering/data/"
                "NMR_Dataset.zip",
                note="the link of DVR's scripts/download_dataset.sh; no checksum is published",
                gives="NMR_Dataset/02691156/softras_train.lst",
            ),
        ),
        own=True,
    ),
    _rendered("shapenet", "ShapeNet", "https://shapenet.org (ShapeNetCore, after registering)"),
    _rendered(
        "gso",
        "Google Scanned Objects",
        "https://app.gazebosim.org/GoogleResearch/fuel/collections/Scanned%20Objects%20by%20Google%20Research",
    ),
    _rendered("rendered_objects", "Any textured models", "models of your own (OBJ, GLB, glTF, PLY)"),
    Dataset(
        "smallnorb",
        "SmallNORB",
        {"train": 24_300, "test": 24_300},
        downloads=tuple(
            _download(f"{_NORB_URL}/smallnorb-{part}.mat.gz", size, sha256) for part, size, sha256 in _NORB_FILES
        ),
    ),
    Dataset(
        "shapes3d",
        "3DShapes; one split, read as 80/10/10",
        {"train": 480_000},
        downloads=(
            _download(
                "https://storage.googleapis.com/3d-shapes/3dshapes.h5",
                267_573_662,
                "0a0f6ed98baff276a50f3a081a7434d788da63cb135a98189b2a5b5769be1785",
            ),
        ),
        packages=("h5py",),
    ),
    _mpi3d("toy", "mpi3d_toy.npz", f"{_MPI3D_URL}/mpi3d_toy.npz", "55889cb7c7dfc655d6e0277beee88868"),
    _mpi3d("realistic", "mpi3d_realistic.npz", f"{_MPI3D_URL}/mpi3d_realistic.npz", "59a6225b88b635365f70c91b3e52f70f"),
    _mpi3d("real", "mpi3d_real.npz", f"{_MPI3D_URL}/mpi3d_real.npz", "0f33f609918fb5c97996692f91129802"),
    _mpi3d(
        "complex",
        "real3d_complicated_shapes_ordered.npz",
        "https://drive.google.com/file/d/1Tp8eTdHxgUMtsZv5uAoYAbJR1BOa_OQm/view",
        note="the link of github.com/rr-learning/disentanglement_dataset; no checksum is published",
    ),
    Dataset(
        "cub",
        "Caltech-UCSD Birds 200-2011 with its attributes",
        {"train": 5_994, "test": 5_794},
        (
            File(
                "CUB_200_2011.tgz",
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
                1_150_585_339,
                "sha256:0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
                _TFDS_SUMS,
                gives="CUB_200_2011/images.txt",
            ),
        ),
        own=True,
    ),
    Dataset(
        "cifar10",
        "CIFAR-10",
        {"train": 50_000, "test": 10_000},
        downloads=(
            _download(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
    ),
    Dataset(
        "cifar100",
        "CIFAR-100",
        {"train": 50_000, "test": 10_000},
        downloads=(
            _download(
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                168_513_733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
        ),
    ),
    Dataset(
        "tiny_imagenet",
        "Tiny-ImageNet",
        {"train": 100_000, "validation": 10_000},
        (
            File(
                "tiny-imagenet-200.zip",
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                248_100_043,
                "md5:90528d7ca1a48142e341f4ef8d21d0de",
                "avalanche (ContinualAI), datasets/tiny_imagenet/tiny_imagenet.py, among others",
                gives="tiny-imagenet-200/wnids.txt",
            ),
        ),
        own=True,
    ),
)
DATASETS = {entry.name: entry for entry in _ENTRIES}
_ALIASES = {"imagenet": "imagenet2012", "flowers102": "oxford_flowers102", "lsun/church": "lsun/church_outdoor"}


def find(name: str) -> Dataset | None:
    """The entry called `name`, its version ignored; without a config the dataset's first; None if there is none."""
    base = name.split(":")[0]
    base = _ALIASES.get(base, base)
    if base in DATASETS:
        return DATASETS[base]
    return next((entry for entry in DATASETS.values() if entry.name.split("/")[0] == base), None)
