"""Fixtures of the renderer's tests, which are skipped where its packages or OpenGL are absent."""

import pytest


@pytest.fixture(scope="session")
def make_renderer():
    """`Renderer`, or a skipped test where it cannot draw."""
    pytest.importorskip("trimesh", reason="needs the render extra")
    from soda_jax.rendering.errors import RendererError
    from soda_jax.rendering.renderer import Renderer

    try:
        Renderer(8).close()
    except RendererError as error:
        pytest.skip(f"no OpenGL: {error}")
    return Renderer
