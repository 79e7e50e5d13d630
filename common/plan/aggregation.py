"""The plan's section on how the updates of a round become one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.settings import Section

_MOST_BYZANTINE = 10**6


class Aggregation(Section):
    """How the updates of a round become one."""

    method: Literal["ffa", "fedavg", "svd", "stack"] = "ffa"
    """ffa: only B is trained, A stays as drawn and shared, so that averaging is exact (Sun et al. 2024,
    https://arxiv.org/abs/2403.12313). fedavg: A and B are trained and averaged separately. svd, stack: A and B are
    trained, the products B·A are averaged and cut to the rank by SVD (Bai et al. 2024,
    https://arxiv.org/abs/2402.11505; Wang et al. 2024, https://arxiv.org/abs/2409.05976); at one rank for all, the
    two are the same. See docs/aggregation.md."""
    weights: Literal["equal", "public-size"] = "equal"
    """Equal weights carry the least noise; public-size weighs by the published sizes."""
    screen: bool = True
    """Refuse an update whose norm is above 5 times the median of the round's. Names, shapes, types and finite
    values are checked in any case."""
    max_update_norm: float | None = Field(default=None, gt=0, examples=[1.0])
    """Scale an update whose L2 norm is larger down to it."""
    robust: Literal["none", "median", "trimmed-mean", "multi-krum"] = "none"
    """What takes the place of the mean, against hostile organizations. median, trimmed-mean: of each coordinate
    (Yin et al. 2018, https://arxiv.org/abs/1803.01498). multi-krum: the mean of the updates that lie closest to
    their neighbours (Blanchard et al. 2017, https://arxiv.org/abs/1703.02757)."""
    byzantine: Annotated[int, Field(ge=1, le=_MOST_BYZANTINE)] | None = Field(default=None, examples=[1])
    """With `robust`, and only then: how many of a round's organizations may be hostile or broken. Those whose
    update was refused count."""
    server_optimizer: Literal["none", "fedavgm", "fedadam", "fedyogi", "fedadagrad"] = "none"
    """What the server does with the update of a round, as if it were a gradient. none: adds it. fedavgm: with
    momentum (Hsu et al. 2019, https://arxiv.org/abs/1909.06335). The others adapt the step of each coordinate
    (Reddi et al. 2021, https://arxiv.org/abs/2003.00295)."""
    server_learning_rate: float | None = Field(default=None, gt=0, examples=[0.01])
    """Of the server's optimizer. fedavgm: 1 if it is missing. The adaptive ones need it: it is about how far a
    coordinate moves in a round."""
    server_momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of the server's optimizer; β₁ of the adaptive ones."""
    server_beta2: float = Field(default=0.99, ge=0, lt=1)
    """β₂ of fedadam and fedyogi."""
    tau: float = Field(default=1e-3, gt=0)
    """τ of the adaptive ones: coordinates whose updates are far smaller move in proportion to them."""
    average: float | None = Field(default=None, gt=0, lt=1, examples=[0.9])
    """β of an exponential moving average of the adapters, which is evaluated and released in place of the last one
    (De et al. 2022, https://arxiv.org/abs/2204.13650). It costs no ε. Training goes on from the last one."""

    @property
    def is_mean(self) -> bool:
        """Whether updates can be folded into a running mean, without ever holding all of them."""
        return self.robust == "none" and not self.averages_products

    @property
    def averages_products(self) -> bool:
        """Whether the products B·A are averaged, so that A and B are others after each round."""
        return self.method in ("svd", "stack")

    @model_validator(mode="after")
    def _products_have_no_coordinates_to_follow(self) -> Aggregation:
        # SVD turns A and B in every round: no coordinate means what it meant a round ago, or to somebody else.
        beside = {
            "robust": self.robust != "none",
            "server_optimizer": self.server_optimizer != "none",
            "average": self.average is not None,
        }
        for name, is_set in beside.items():
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
