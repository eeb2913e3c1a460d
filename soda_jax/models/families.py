"""The families of models, by the value of `config.model.family`."""

from soda_jax.models.baselines import EncoderDecoder
from soda_jax.models.soda import SODA

FAMILIES = {"soda": SODA, "encdec": EncoderDecoder}
