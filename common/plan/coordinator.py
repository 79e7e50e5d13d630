"""The plan's sections for the coordinator alone: they do not affect what an organization does."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.plan.lora import MOST_RANK
from common.settings import Count, Section


class Evaluation(Section):
    """Public data held by the coordinator; never seen by an organization, never private."""

    data: str | None = None
    """Records on which the model is evaluated before the run, during it and after it: .jsonl, .csv or .parquet."""
    every: Count = 1
    """Rounds between two evaluations."""
    patience: Count | None = Field(default=None, examples=[5])
    """The run stops early after this many evaluations in a row without a better headline metric of the task; its
    result is the adapter of the best evaluation, not the last. This refunds no ε: all rounds are charged before
    the first and stay charged. Needs `data`."""
    prompts: list[str] = []
    """Prompts that the model completes before and after the run."""

    @model_validator(mode="after")
    def _patience_has_data(self) -> Evaluation:
        if self.patience is not None and self.data is None:
            raise ValueError(f"patience = {self.patience} needs data, a file of public records to evaluate on")
        return self


class Simulation(Section):
    """Read by `sotto simulate` only: one public file is divided among simulated organizations."""

    data: str | None = Field(default=None, examples=["records.jsonl"])
    """Records of all simulated organizations: .jsonl, .csv or .parquet."""
    partition: Literal["iid", "dirichlet", "field"] = "iid"
    """iid: at random. dirichlet: unevenly, by the values of `field`. field: one organization per value."""
    field: str | None = None
    """The record field for "dirichlet" and "field"."""
    user_field: str | None = Field(default=None, min_length=1, examples=["user"])
    """The record field that names the user (text or integer); only with privacy.unit = "user". All
    records of a user go to one organization; "dirichlet" uses the field of the user's first record."""
    organizations: Count = 4
    """The number of organizations, for "iid" and "dirichlet"."""
    alpha: float = Field(default=0.5, gt=0)
    """Concentration of the Dirichlet distribution; smaller is more uneven."""
    ranks: list[Annotated[int, Field(ge=1, le=MOST_RANK)]] = Field(default=[], examples=[[4, 8, 16]])
    """The largest rank of each organization, in order and repeated; needs lora.min_rank. Empty: no limit."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the partition."""
    noise_seed: int | None = Field(default=None, ge=0, lt=2**63, examples=[0])
    """Makes sampling and noise repeatable, for tests. Anyone who knows the seed can remove the noise."""
