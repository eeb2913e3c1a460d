"""What the latent space holds (SODA Sections 3.2.1, 4.3 and Appendix E.3): pure functions on arrays of codes.

Codes are latents [N, d] of any model, as `soda_jax.load(...).encode` gives them or a `z.npy` holds them. Nothing here
knows of networks: `Inference` and `soda_jax.load` encode and decode.

- `sections`: which dimensions a range of sections "a-b" has.
- `walks`: interpolation, truncation toward the mean code, sections of another image.
- `pca`: principal components of codes, and codes drawn from the Gaussian on them.
- `directions`: `Direction`, a line through the latent with the real codes' spread along it, and how codes move on it.
- `finding`: directions from principal components, labels, groups, weights and single axes.
- `probing`: the linear probe whose rows are the labels' directions.
- `neighbours`: the nearest codes.
- `scores`: what an edit did, from the codes of its results.
"""
