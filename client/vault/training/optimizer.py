"""The local optimizer, which sees noised gradients only."""

from __future__ import annotations

from typing import Any

import torch

from client.vault.training.per_example import Parameters
from common.adapter.adapter import is_lora
from common.plan.plan import Plan


def make_optimizer(plan: Plan, parameters: Parameters, round_number: int) -> torch.optim.Optimizer:
    """The local optimizer of a round, without any state; a head has its own learning rate."""
    training = plan.training
    groups: list[dict[str, Any]] = [
        {"params": [parameter for name, parameter in parameters.items() if is_lora(name) == lora], "lr": rate}
        for lora, rate in ((True, training.rate(round_number)), (False, training.head_rate(round_number)))
    ]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=training.momentum)
    return torch.optim.AdamW(groups, weight_decay=0.0)
