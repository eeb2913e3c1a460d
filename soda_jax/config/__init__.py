"""A run's config: its checks, its JSON, and what sets one apart from another."""

from soda_jax.config.checks.model import GUIDANCE, parse_encoder_name
from soda_jax.config.evaluators import EVALUATORS
from soda_jax.config.reading import (
    ADDED_FIELDS,
    COMPUTE_FIELDS,
    MODEL_FIELDS,
    STATE_FIELDS,
    ConfigError,
    check_foreign,
    differences,
    from_dict,
    portable,
    scored_split,
    to_json,
    validate,
)

__all__ = [
    "ADDED_FIELDS",
    "COMPUTE_FIELDS",
    "EVALUATORS",
    "GUIDANCE",
    "MODEL_FIELDS",
    "STATE_FIELDS",
    "ConfigError",
    "check_foreign",
    "differences",
    "from_dict",
    "parse_encoder_name",
    "portable",
    "scored_split",
    "to_json",
    "validate",
]
