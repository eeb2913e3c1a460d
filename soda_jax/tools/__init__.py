"""Command-line tools, each `python -m soda_jax.tools.NAME --help`. `describe` prints what a config builds."""
