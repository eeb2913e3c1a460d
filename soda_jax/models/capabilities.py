"""What a model can do, by name: callers ask for a capability and never for a family."""

from typing import Any

LATENT = "latent"
SECTIONS = "sections"
SOURCE = "source"
NOISE = "noise"
UNCONDITIONAL = "unconditional"
GUIDANCE = "guidance"
DECODE = "decode"
DENOISER = "denoiser"

# What each of them gives, as messages say it.
CAPABILITIES = {
    LATENT: "latents of images",
    SECTIONS: "latents in sections, which can be dropped and mixed",
    SOURCE: "images of given source views",
    NOISE: "sampling from noise, step by step",
    UNCONDITIONAL: "images of noise alone, without a source",
    GUIDANCE: "guidance towards the source",
    DECODE: "one image of each latent, without noise",
    DENOISER: "features of the denoiser's blocks (config.eval.feature='denoiser')",
}


def can(model: Any, capability: str) -> bool:
    """Whether `model` has the capability, one of `CAPABILITIES`."""
    return capability in model.capabilities


def require(model: Any, capability: str, wanted: str) -> None:
    """Raises ValueError, naming what there is instead, if `model` lacks the capability that `wanted` needs."""
    if not can(model, capability):
        raise ValueError(f"{wanted} needs a model with {CAPABILITIES[capability]}. This model, {offers(model)}")


def offers(model: Any) -> str:
    """What `model`, or a family, can do: "SODA, offers latents of images; ..."."""
    offered = "; ".join(CAPABILITIES[name] for name in CAPABILITIES if name in model.capabilities)
    return f"{model.title}, offers {offered}"
