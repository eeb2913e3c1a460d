"""What a model can do, by name: callers ask for a capability and never for a family."""

from typing import Any

LATENT = "latent"
SECTIONS = "sections"
NOISE = "noise"
DECODE = "decode"

# What each of them gives, as messages say it.
CAPABILITIES = {
    LATENT: "latents of images",
    SECTIONS: "latents in sections, which can be dropped and mixed",
    NOISE: "sampling from noise: unconditional images, guidance, several images of one latent",
    DECODE: "one image of each latent, without noise",
}


def can(model: Any, capability: str) -> bool:
    """Whether `model` has the capability, one of `CAPABILITIES`."""
    return capability in model.capabilities


def require(model: Any, capability: str, wanted: str) -> None:
    """Raises ValueError, naming what there is instead, if `model` lacks the capability that `wanted` needs."""
    if not can(model, capability):
        offered = "; ".join(CAPABILITIES[name] for name in CAPABILITIES if name in model.capabilities)
        raise ValueError(
            f"{wanted} needs a model with {CAPABILITIES[capability]}. This model, {model.title}, offers {offered}"
        )
