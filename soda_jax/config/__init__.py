"""A run's config: its checks, its JSON, and what sets one apart from another."""

from soda_jax.config.checks.evaluation import EVALUATORS, FEATURE_EVALUATORS, IMAGE_EVALUATORS, IMAGE_METRICS
from soda_jax.config.checks.model import GUIDANCE, parse_encoder_name
from soda_jax.config.reading import (
    ADDED_FIELDS,
    COMPUTE_FIELDS,
    MODEL_FIELDS,
    STATE_FIELDS,
    ConfigError,
    differences,
    from_dict,
    to_json,
    validate,
)

__all__ = [
    "ADDED_FIELDS",
    "COMPUTE_FIELDS",
    "EVALUATORS",
    "FEATURE_EVALUATORS",
    "GUIDANCE",
    "IMAGE_EVALUATORS",
    "IMAGE_METRICS",
    "MODEL_FIELDS",
    "STATE_FIELDS",
    "ConfigError",
    "differences",
    "from_dict",
    "parse_encoder_name",
    "to_json",
    "validate",
]
