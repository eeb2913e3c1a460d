"""Disentanglement of codes [N, d] with respect to factors of variation [N, K] (SODA Section 4.3, Appendix E.3).

`dci` and `dci_by_section`: disentanglement, completeness and informativeness by boosted trees. `mig`: mutual
information gap. `sap`: separated attribute predictability. `factor_vae_score`. `pca_per_section` and
`pca_scores`: the same of a latent whose units are vectors. All take matrices, from any model.
"""

from soda_jax.metrics.disentanglement.dci import DCI, completeness, dci, dci_by_section, disentanglement
from soda_jax.metrics.disentanglement.factor_vae import factor_vae_score
from soda_jax.metrics.disentanglement.mig import mig, mutual_information
from soda_jax.metrics.disentanglement.pca import PcaScores, pca_per_section, pca_scores
from soda_jax.metrics.disentanglement.sap import sap

__all__ = [
    "DCI",
    "PcaScores",
    "completeness",
    "dci",
    "dci_by_section",
    "disentanglement",
    "factor_vae_score",
    "mig",
    "mutual_information",
    "pca_per_section",
    "pca_scores",
    "sap",
]
