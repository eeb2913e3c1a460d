"""Renders textured meshes into the multi-view folder that the dataset "multiview" reads.

Needs the `render` extra (trimesh, pyrender). Only soda_jax.tools.render_objects uses it.
"""
