"""The plan's section on the LoRA layers, and the rank of each organization."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from common.settings import Section

MOST_RANK = 1024


class Lora(Section):
    """Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""

    rank: int = Field(default=8, ge=1, le=MOST_RANK)
    """Rank of every adapted layer."""
    min_rank: int | None = Field(default=None, ge=1, le=MOST_RANK, examples=[4])
    """Organizations may train at a smaller rank, down to this: the largest that their
    `vault.max_rank` allows. Needs aggregation.method = "svd" or "stack". If it is missing, all train at `rank`."""
    alpha: float = Field(default=16.0, gt=0)
    """The update is scaled by alpha / rank, with the `rank` of the plan for all organizations."""
    rslora: bool = False
    """Scale by alpha / √rank instead, which keeps large ranks learning (Kalajdzievski 2023,
    https://arxiv.org/abs/2312.03732)."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Layers to adapt: "all-linear" (all but the output layer), or a list of names."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the initial A matrices, the same for all organizations; public. B starts at zero."""

    def own_rank(self, most: int | None) -> int:
        """The rank at which an organization would train, whether or not the plan allows it.

        Args:
            most: the largest rank that it trains; None for no limit.
        """
        return self.rank if most is None else min(self.rank, most)

    def refusal(self, most: int | None) -> str | None:
        """Why an organization cannot take part; None if it can.

        Args:
            most: the largest rank that it trains; None for no limit.
        """
        rank = self.own_rank(most)
        if rank >= (self.min_rank or self.rank):
            return None
        if self.min_rank is None:
            return f"rank {rank}; all should train at lora.rank = {self.rank}, since the plan has no lora.min_rank"
        return f"rank {rank}; it should be at least lora.min_rank = {self.min_rank}"

    def at_rank(self, rank: int) -> Lora:
        """The same layers at another rank with the same scale, so that products B·A are comparable."""
        share = rank / self.rank
        return self.model_copy(
            update={"rank": rank, "alpha": self.alpha * (math.sqrt(share) if self.rslora else share)}
        )

    @model_validator(mode="after")
    def _min_rank_is_at_most_rank(self) -> Lora:
        if self.min_rank is not None and self.min_rank > self.rank:
            raise ValueError(f"min_rank = {self.min_rank} should be at most rank = {self.rank}")
        return self
