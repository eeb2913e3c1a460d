"""Tables 4, 6, 7, 9 and 11: how the latent modulates the denoiser, and what that does to disentanglement."""

from soda_jax.studies.definition import Claim, Printed, Row, Study
from soda_jax.studies.definitions.shared import beats, celeba_hq, large_scenes, scenes

_SODA = "SODA"
_ABLATIONS = (
    "w/o layer modulation",
    "w/o layer mask",
    "w/o scale modulation",
    "sum modulation",
    "concat modulation",
    "w/o modulation",
)
_GRID = "w/o bottleneck"
_TABLE_11 = {
    "probe": Printed("celeba_hq", "probe/f1", ("Table 11",)),
    "d": Printed("celeba_hq", "dci/d", ("Table 11",)),
    "c": Printed("celeba_hq", "dci/c", ("Table 11",)),
    "i": Printed("celeba_hq", "dci/i", ("Table 11",)),
    "psnr": Printed("celeba_hq", "reconstruction/psnr", ("Table 11",)),
    "ssim": Printed("celeba_hq", "reconstruction/ssim", ("Table 11",)),
}

MODULATION = Study(
    name="modulation",
    title="How the latent modulates the denoiser",
    where="Tables 9, 11",
    rows=(Row(_SODA), *(Row(name, name) for name in (*_ABLATIONS, _GRID))),
    claims=(
        *beats(_SODA, (*_ABLATIONS, _GRID), "probe", "SODA's latent classifies better than {}", "Tables 9, 11"),
        *beats(_SODA, (*_ABLATIONS, _GRID), "d", "SODA's latent is more disentangled than {}", "Table 11"),
        *beats(_SODA, _ABLATIONS, "psnr", "SODA reconstructs better than {}", "Tables 9, 11"),
        Claim("A grid of features reconstructs better than a bottleneck", _GRID, ">", _SODA, "psnr", "Table 11"),
    ),
    sizes={"cpu": scenes(), "gpu": large_scenes(), "paper": celeba_hq()},
    printed=_TABLE_11,
    notes=(
        "The paper's figures are those of CelebA-HQ with a ResNet-50, its probe's F1 over 40 attributes; accuracies "
        "over the six factors of scenes are another scale.",
    ),
)

_VAES = ("beta-VAE", "AnnealedVAE", "FactorVAE", "beta-TCVAE", "DIP-VAE (I)", "DIP-VAE (II)")

DISENTANGLEMENT = Study(
    name="disentanglement",
    title="Disentanglement of the latent",
    where="Tables 4, 6, 7, 11",
    rows=(
        Row(_SODA),
        Row("w/o layer modulation", "w/o layer modulation"),
        Row("w/o layer mask", "w/o layer mask"),
        *(Row(name, name) for name in _VAES),
        Row("AutoEnc", "AutoEnc"),
    ),
    claims=(
        *beats(
            _SODA,
            ("w/o layer modulation",),
            "dci",
            "Layer modulation disentangles: the mean of D, C and I is above that of {}",
            "Tables 4, 7",
        ),
        *beats(_SODA, ("w/o layer modulation",), "d", "Layer modulation raises D above that of {}", "Tables 7, 11"),
        *beats(_SODA, ("w/o layer modulation",), "c", "Layer modulation raises C above that of {}", "Tables 7, 11"),
        *beats(_SODA, ("w/o layer mask",), "d", "Layer masking raises D above that of {}", "Table 11"),
        *beats(_SODA, (*_VAES, "AutoEnc"), "dci", "SODA is more disentangled than {}", "Tables 4, 6, F.5"),
        *beats(_SODA, (*_VAES, "AutoEnc"), "probe", "SODA's latent classifies better than {}", "Table 6"),
    ),
    sizes={"cpu": scenes(), "gpu": large_scenes(), "paper": celeba_hq()},
    printed=_TABLE_11,
    curves=("probe/mean", "eval/loss"),
    notes=(
        "Losses of a VAE, of a regression and of a denoiser are different quantities: only curves of one kind compare.",
        "AnnealedVAE's capacity rises over the whole run (config.model.vae.annealed_steps), not over 100,000 steps.",
    ),
)

STUDIES = (MODULATION, DISENTANGLEMENT)
