"""The plan's section on aggregation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.settings import Section

_MOST_BYZANTINE = 10**6


class Aggregation(Section):
    """How the updates of a round are combined into one."""

    method: Literal["ffa", "fedavg", "svd", "stack"] = "ffa"
    """ffa: only B is trained, A stays at its shared initial values, so averaging is exact (Sun et al. 2024,
    https://arxiv.org/abs/2403.12313). fedavg: A and B are trained and averaged separately. svd, stack: A and B are
    trained, the products B·A are averaged and truncated to the rank by SVD (Bai et al. 2024,
    https://arxiv.org/abs/2402.11505; Wang et al. 2024, https://arxiv.org/abs/2409.05976); if all
    ranks are equal, the two are the same. See docs/aggregation.md."""
    weights: Literal["equal", "public-size"] = "equal"
    """Equal weights give the least noise; public-size weights by the published sizes."""
    screen: bool = True
    """Refuse an update whose norm is above 5 times the round's median. Names, shapes, types and finite
    values are checked in any case."""
    max_update_norm: float | None = Field(default=None, gt=0, examples=[1.0])
    """Scale an update with a larger L2 norm down to this."""
    robust: Literal["none", "median", "trimmed-mean", "multi-krum"] = "none"
    """A robust rule in place of the mean, against hostile organizations. median, trimmed-mean: per coordinate
    (Yin et al. 2018, https://arxiv.org/abs/1803.01498). multi-krum: the mean of the updates that are closest to
    their neighbours (Blanchard et al. 2017, https://arxiv.org/abs/1703.02757)."""
    byzantine: Annotated[int, Field(ge=1, le=_MOST_BYZANTINE)] | None = Field(default=None, examples=[1])
    """Only with `robust`: how many of a round's organizations may be hostile or broken. Those whose update was
    refused count."""
    server_optimizer: Literal["none", "fedavgm", "fedadam", "fedyogi", "fedadagrad"] = "none"
    """The optimizer that the server applies to the update of a round, as if it were a gradient. none: add it.
    fedavgm: add momentum (Hsu et al. 2019, https://arxiv.org/abs/1909.06335). The others adapt the step per
    coordinate (Reddi et al. 2021, https://arxiv.org/abs/2003.00295)."""
    server_learning_rate: float | None = Field(default=None, gt=0, examples=[0.01])
    """Learning rate of the server's optimizer. fedavgm: 1 if it is missing. The adaptive optimizers need it: a
    coordinate moves about this far in a round."""
    server_momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of the server's optimizer; β₁ of the adaptive optimizers."""
    server_beta2: float = Field(default=0.99, ge=0, lt=1)
    """β₂ of fedadam and fedyogi."""
    tau: float = Field(default=1e-3, gt=0)
    """τ of the adaptive optimizers: coordinates with much smaller updates move in proportion to these."""
    average: float | None = Field(default=None, gt=0, lt=1, examples=[0.9])
    """β of an exponential moving average of the adapters, which is evaluated and released in place of the last
    adapter (De et al. 2022, https://arxiv.org/abs/2204.13650). It costs no ε. Training continues from the last
    adapter."""

    @property
    def is_mean(self) -> bool:
        """Whether updates can be added to a running mean, without keeping all of them in memory."""
        return self.robust == "none" and not self.averages_products

    @property
    def averages_products(self) -> bool:
        """Whether the products B·A are averaged, so that each round computes new A and B."""
        return self.method in ("svd", "stack")

    @model_validator(mode="after")
    def _products_have_no_fixed_coordinates(self) -> Aggregation:
        # SVD rotates A and B in every round: a coordinate has no fixed meaning across rounds or organizations.
        needs_coordinates = {
            "robust": self.robust != "none",
            "server_optimizer": self.server_optimizer != "none",
            "average": self.average is not None,
        }
        for name, is_set in needs_coordinates.items():
            if is_set and self.averages_products:
                value = getattr(self, name)
                raise ValueError(f'{name} = {value!r} needs method = "ffa" or "fedavg"; it is "{self.method}"')
        return self

    @model_validator(mode="after")
    def _adaptive_optimizers_have_a_rate(self) -> Aggregation:
        if self.server_optimizer == "none" and self.server_learning_rate is not None:
            raise ValueError(f"server_learning_rate = {self.server_learning_rate} needs a server_optimizer")
        if self.server_optimizer not in ("none", "fedavgm") and self.server_learning_rate is None:
            raise ValueError(
                f'server_learning_rate is missing: server_optimizer = "{self.server_optimizer}" needs it, for '
                "instance 0.01"
            )
        return self

    @model_validator(mode="after")
    def _robust_has_what_it_needs(self) -> Aggregation:
        if self.robust == "none":
            if self.byzantine is not None:
                raise ValueError(f'byzantine = {self.byzantine} needs robust = "median", for instance')
            return self
        if self.byzantine is None:
            raise ValueError(f'byzantine is missing: robust = "{self.robust}" needs it, 1 or more')
        if self.weights != "equal":
            # A hostile organization could publish any size.
            raise ValueError(f'weights = "{self.weights}": robust = "{self.robust}" needs "equal"')
        return self
