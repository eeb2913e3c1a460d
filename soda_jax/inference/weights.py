"""The averaged weights that `--mode=evaluate` and `--mode=sample` work with."""

import dataclasses
from collections.abc import Callable

from ml_collections import ConfigDict

from soda_jax.inference.engine import Inference, Variables
from soda_jax.workdir.best import checkpoint_step
from soda_jax.workdir.checkpoint import load_ema, read_meta
from soda_jax.workdir.digest import digest_of
from soda_jax.workdir.meta import check_same_model


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """Weights that are known to be of a config's model, and not on its devices yet.

    Attributes:
      step: of the checkpoint.
      read: gives, for an `Inference`, the variables on its devices and the `weights_digest` of the run they are from.
      is_rounded: they are not the run's own, but an export's in fewer bits.
    """

    step: int
    read: Callable[[Inference], tuple[Variables, str]]
    is_rounded: bool = False


def of_checkpoint(config: ConfigDict, workdir: str, step: int | str | None = None) -> Weights:
    """Those of a checkpoint: a step, or "best" by the metric that training watched; the newest by default. With several
    processes, all must call this.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: the workdir holds another model.
    """
    found, meta = read_meta(workdir, checkpoint_step(workdir, step))
    check_same_model(workdir, meta, config)

    def read(inference: Inference) -> tuple[Variables, str]:
        variables = load_ema(workdir, found, inference.abstract_variables())
        return variables, digest_of(meta, variables)

    return Weights(found, read)
