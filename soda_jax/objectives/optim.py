"""Optimiser and learning-rate schedule (SODA Table 12)."""

import jax
import optax

from soda_jax.objectives.norms import clip_by_global_norm


def learning_rate_schedule(
    peak: float, *, schedule: str, warmup_steps: int, decay_steps: int, final_ratio: float
) -> optax.Schedule:
    """Linear warm-up from 0, then constant, or cosine from `peak` to `final_ratio * peak` at step `decay_steps`."""
    if schedule == "constant":
        after = optax.constant_schedule(peak)
    else:
        after = optax.cosine_decay_schedule(peak, max(decay_steps - warmup_steps, 1), alpha=final_ratio)
    if warmup_steps == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), after], [warmup_steps])


def adamw(
    schedule: optax.Schedule,
    *,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW; only kernels decay, biases and norm scales do not."""
    return optax.chain(
        clip_by_global_norm(clip_norm),
        optax.adamw(
            schedule,
            b1=b1,
            b2=b2,
            eps=eps,
            weight_decay=weight_decay,
            mask=lambda params: jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params),
        ),
    )
