"""The paper's experiments as studies, each at three sizes: `cpu`, `gpu` and `paper`."""
