"""What `--mode=sample` can draw: the one list that config checks, the mode and docs read.

A new picture is an entry here and a function `picture(PictureContext) -> Picture | None` in its module of
`soda_jax/inference/` (`soda_jax.inference.pictures` has both types).
"""

import dataclasses

# What a picture may need, as messages and docs say it.
NEEDS = {
    "cameras": "a model that takes cameras",
    "vector": "a latent that is one vector",
    "sections": "a latent whose sections act apart (`config.model.modulation.kind=layer`)",
    "noise": "a model that samples from noise",
    "labels": "labels",
    "images": "two held-out images or more",
}


@dataclasses.dataclass(frozen=True)
class PictureEntry:
    """A picture as far as configs and messages know it.

    Attributes:
      module: in `soda_jax/inference/`, that draws it.
      shows: one sentence for docs.
      needs: what there must be, names of `NEEDS`; where it is missing, the picture is left out.
    """

    module: str
    shows: str
    needs: tuple[str, ...] = ()


# They are drawn in the order of `config.sampling.pictures`; a file's name starts with the picture's.
PICTURES: dict[str, PictureEntry] = {
    "grid": PictureEntry(
        module="grids",
        shows="Source, target, reconstruction or novel view, and unconditional sample of held-out examples.",
    ),
    "turntable": PictureEntry(
        module="turntable",
        shows="Held-out objects from `config.sampling.turntable_views` cameras around them.",
        needs=("cameras",),
    ),
    "interpolation": PictureEntry(
        module="interpolation",
        shows="Walks between pairs of held-out images, from one latent to the other on a straight line.",
        needs=("vector", "images"),
    ),
    "pca": PictureEntry(
        module="pca_walks",
        shows="A held-out image moved along the top principal components of its latent, and of ranges of sections.",
        needs=("vector",),
    ),
    "attributes": PictureEntry(
        module="attribute_walks",
        shows="A held-out image moved along the labels' directions.",
        needs=("vector", "labels"),
    ),
    "mixing": PictureEntry(
        module="mixing",
        shows="Inner sections (structure) of the rows' images with outer sections (style) of the columns'.",
        needs=("sections", "images"),
    ),
    "resample": PictureEntry(
        module="resampling",
        shows="Held-out images with one range of sections dropped at a time, which several seeds fill in.",
        needs=("sections", "noise"),
    ),
    "noise": PictureEntry(
        module="noises",
        shows="Each latent under several noises: what it leaves open.",
        needs=("noise",),
    ),
}

# Of these a model draws what it can; other choices must be possible.
DEFAULT = ("grid", "turntable")


def needed(name: str) -> str:
    """What a picture needs, in words; "" where every model can give it."""
    return ", ".join(NEEDS[need] for need in PICTURES[name].needs)


def table_rows() -> list[tuple[str, str]]:
    """(name, what it shows and needs) of every picture, for the docs."""
    needs = {name: f" Needs {needed(name)}." if PICTURES[name].needs else "" for name in PICTURES}
    return [(f"`{name}`", entry.shows + needs[name]) for name, entry in PICTURES.items()]
