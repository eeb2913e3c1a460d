"""Renders textured meshes into the multi-view folder that the source "multiview" reads.

Needs the `render` extra (trimesh, pyrender). Only soda_jax.tools.render_objects uses it.
"""
