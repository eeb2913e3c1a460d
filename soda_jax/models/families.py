"""The families of models, by the value of `config.model.family`."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn

from soda_jax.models.baselines import EncoderDecoder, Palette, UnconditionalDiffusion, VariationalAutoencoder
from soda_jax.models.frozen import FrozenSODA
from soda_jax.models.soda import SODA


@dataclasses.dataclass(frozen=True)
class Family:
    """A family as far as configs, messages and reports know it.

    Attributes:
      model: its class, whose `capabilities` say what it can do.
      title: its name in the paper.
      view_policy: in place of `config.data.view_policy`, where the family is defined by its views; "" for none.
      takes_an_encoder: it stands on an encoder that was trained elsewhere, at `config.model.frozen.path`.
      paper_millions: the paper's numbers of parameters with its ImageNet model, by the rows of `tools.describe`.
    """

    model: type[nn.Module]
    title: str
    view_policy: str = ""
    takes_an_encoder: bool = False
    paper_millions: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def capabilities(self) -> frozenset[str]:
        return self.model.capabilities


_TOTAL = {"total": 118}  # Table 1

FAMILIES: dict[str, Family] = {
    "soda": Family(SODA, "SODA", paper_millions={"encoder trunk": 94, "denoiser, modulation included": 36}),
    "encdec": Family(EncoderDecoder, "EncDec", paper_millions=_TOTAL),
    "autoenc": Family(EncoderDecoder, "AutoEnc", view_policy="same", paper_millions=_TOTAL),
    "uncond": Family(UnconditionalDiffusion, "Uncond", paper_millions=_TOTAL),
    "palette": Family(Palette, "Palette", paper_millions=_TOTAL),
    "vae_beta": Family(VariationalAutoencoder, "beta-VAE"),
    "vae_annealed": Family(VariationalAutoencoder, "AnnealedVAE"),
    "vae_factor": Family(VariationalAutoencoder, "FactorVAE"),
    "vae_tc": Family(VariationalAutoencoder, "beta-TCVAE"),
    "vae_dip1": Family(VariationalAutoencoder, "DIP-VAE (I)"),
    "vae_dip2": Family(VariationalAutoencoder, "DIP-VAE (II)"),
    "frozen": Family(FrozenSODA, "unCLIP", takes_an_encoder=True),
}
