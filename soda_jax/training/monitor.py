"""Training until convergence: a metric's best value so far, and whether too many steps have passed without one.

The paper measures convergence "by lack of improvement over a set number of training steps along a validation metric".
"""

import dataclasses
import math
from typing import Any


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of `metric` is an improvement: of losses it is, of accuracies not."""
    return metric.rpartition("/")[2] == "loss"


@dataclasses.dataclass
class Monitor:
    """What the evaluations of a run have said of one metric. It decides at evaluations only.

    Attributes:
      metric: its name, as "eval/loss" or "probe/mean"; "" for none.
      split: that it is measured on; values of two splits are not compared.
      patience: steps without improvement after which the run ends; 0: never.
      active: whether the run watches the metric now; otherwise what an earlier session found is kept as it is.
      best, best_step: the best value and the first step that had it; None before there is a number.
      since: step from which patience counts: of the last improvement, or of the first evaluation.
      told: step of the last evaluation.
    """

    metric: str
    split: str
    patience: int
    active: bool = True
    best: float | None = None
    best_step: int | None = None
    since: int | None = None
    told: int | None = None

    @classmethod
    def resumed(cls, metric: str, split: str, patience: int, state: Any) -> "Monitor":
        """A monitor that goes on from the `state()` of a checkpoint, or anew where that is None or of another metric.

        Args:
          metric: to watch; "" watches nothing, and passes on what was found.
        """
        fields = [field.name for field in dataclasses.fields(cls) if field.name not in ("patience", "active")]
        if isinstance(state, dict) and state.keys() == set(fields):
            if not metric:
                return cls(patience=0, active=False, **state)
            if (state["metric"], state["split"]) == (metric, split):
                return cls(patience=patience, **state)
        return cls(metric, split, patience, active=bool(metric))

    def state(self) -> dict[str, Any] | None:
        """JSON data from which `resumed` goes on; None where nothing was ever watched."""
        if not self.metric:
            return None
        left_out = ("patience", "active")
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in left_out}

    def update(self, step: int, value: float) -> bool:
        """Notes the value that the evaluation at `step` found; True if it is the best so far.

        Only a better value improves: an equal one does not, nor does one that is not finite. An evaluation that is made
        again, as at the start of a run that had ended, counts once.
        """
        if self.told is not None and step <= self.told:
            return False
        self.told = step
        if self.since is None:
            self.since = step
        better = self.best is None or (value < self.best if lower_is_better(self.metric) else value > self.best)
        if not math.isfinite(value) or not better:
            return False
        self.best, self.best_step, self.since = value, step, step
        return True

    @property
    def exhausted(self) -> bool:
        """Whether patience had run out at the last evaluation."""
        return self.patience > 0 and self.told is not None and self.told - self.since >= self.patience

    @property
    def reason(self) -> str:
        """Why the run ends where patience has run out."""
        best = "it never was a finite number" if self.best is None else f"best {self.best:.4g} at step {self.best_step}"
        return (
            f"no improvement of {self.metric} on '{self.split}' for {self.told - self.since} steps ({best}; "
            f"config.train.patience={self.patience})"
        )
