"""What `--mode=sample` can draw: the one list that config checks, the mode and docs read.

A new picture is an entry here and a function `picture(PictureContext) -> Picture | None` in its module of
`soda_jax/inference/` (`soda_jax.inference.pictures` has both types).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PictureEntry:
    """A picture as far as configs and messages know it.

    Attributes:
      module: in `soda_jax/inference/`, that draws it.
      shows: one sentence for docs.
      needs: what the model must take: "cameras".
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
}

# Of these a model draws what it can; other choices must be possible.
DEFAULT = ("grid", "turntable")


def table_rows() -> list[tuple[str, str]]:
    """(name, what it shows) of every picture, for the docs."""
    return [(f"`{name}`", entry.shows) for name, entry in PICTURES.items()]
