"""The parameters of a differentially private mechanism, from which anyone can recompute ε.

Separate from `common.privacy.accounting`, so that code that only passes mechanisms on needs no accountant and no
torch.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Mechanism:
    """Steps of the Gaussian mechanism on Poisson samples, as in DP-SGD.

    Attributes:
        sample_rate: q, the probability that a unit is in a step's sample, in (0, 1].
        noise_multiplier: σ, the noise's standard deviation divided by the clipping norm.
        steps: the number of steps.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        if isinstance(self.sample_rate, bool) or isinstance(self.noise_multiplier, bool):
            raise ValueError("a boolean is not a number of a mechanism")
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"sample_rate = {self.sample_rate}: it should be above 0 and at most 1")
        if not (self.noise_multiplier > 0 and math.isfinite(self.noise_multiplier)):
            raise ValueError(f"noise_multiplier = {self.noise_multiplier}: it should be above 0 and finite")
        if type(self.steps) is not int or self.steps < 1:
            raise ValueError(f"steps = {self.steps!r}: it should be an integer of at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in statements and reports."""
        return {"kind": "poisson-gaussian", **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Mechanism:
        """The inverse of `to_dict`.

        Raises:
            ValueError: an unknown kind of mechanism, unknown keys, missing or impossible values. Nothing is
                ignored.
        """
        if not isinstance(values, dict):
            raise ValueError("not a mechanism: it should be a table")
        if values.get("kind") != "poisson-gaussian":
            raise ValueError(f"unknown kind of mechanism: {values.get('kind')!r}")
        if values.keys() - {"kind", *cls.__dataclass_fields__}:
            raise ValueError("not a mechanism: it has unknown keys")
        try:
            return cls(values["sample_rate"], values["noise_multiplier"], values["steps"])
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not a mechanism: {values!r}") from error
