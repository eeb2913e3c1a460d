"""The loss of SODA around an encoder that is not trained (F.1 "unCLIP")."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from soda_jax.objectives.objective import FROZEN
from soda_jax.objectives.soda import SodaObjective


@dataclasses.dataclass(frozen=True)
class FrozenObjective(SodaObjective):
    """`SodaObjective` of a `FrozenSODA`: the same loss, and no step, decay or average for the encoder's parameters."""

    roles: ClassVar[Mapping[str, str]] = MappingProxyType({"encoder": FROZEN})
