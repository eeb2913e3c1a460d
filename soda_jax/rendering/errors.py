"""What can go wrong: with one model, or with all of them."""

INSTALL = (
    "install `pip install 'soda-jax[render]'` and the system's OpenGL (Debian and Ubuntu: "
    "`apt-get install libegl1 libgl1-mesa-dri`)"
)


class MeshError(ValueError):
    """A model that cannot be rendered; the message says why."""


class RendererError(RuntimeError):
    """Nothing can be rendered here; the message names the remedy."""
