"""The page of the explorer, in gradio; nothing else of the package imports it."""

from soda_jax.explorer.page.page import build, launch

__all__ = ["build", "launch"]
