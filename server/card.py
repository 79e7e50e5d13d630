"""The model card of an adapter: what it is, how it was made, and what privacy it has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from common.plan import Plan
from common.untrusted import printable
from server.run_directory import RoundLine, RunInfo

_CARD = """---
library_name: peft
base_model: "{base}"
tags: [lora, federated-learning, differential-privacy]
---

# {run}

A LoRA adapter for `{base}`, fine-tuned by {count} organizations that kept their records to themselves.

## Privacy

{guarantee}

{privacy_table}
{not_covered}
## Training

| | |
|---|---|
| task | {task}, at most {max_length} tokens |
| LoRA | rank {rank}, alpha {alpha:g}, target modules {targets} |
| aggregation | {method} |
| rounds × local steps | {rounds} × {steps} |
| expected batch of an organization | {batch} |
| optimizer | {optimizer}, learning rate {rate:g}, {schedule} |
| plan digest | `{digest}` |
| base model fingerprint | `{fingerprint}` |

## Evaluation on public data

{metrics}
## Use

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("{base}")
```
"""


def adapter_card(plan: Plan, info: RunInfo, rounds: Sequence[RoundLine], report: dict[str, Any]) -> str:
    """The README.md of an adapter folder.

    Args:
        plan: of the run.
        info: the run's id, digest and fingerprint.
        rounds: all lines of `rounds.jsonl`.
        report: the privacy report.
    """
    asked: list[str] = rounds[-1].organizations.get("asked", []) if rounds else []
    return _CARD.format(
        run=info.run,
        base=plan.model.base,
        count=len(asked),
        guarantee=_plain(report["guarantee"], 10_000),
        privacy_table=_privacy_table(report["organizations"]),
        not_covered=_not_covered(report),
        task=plan.task.kind,
        max_length=plan.task.max_length,
        rank=plan.lora.rank,
        alpha=plan.lora.alpha,
        targets=plan.lora.target_modules,
        method=plan.aggregation.method,
        rounds=plan.training.rounds,
        steps=plan.training.local_steps,
        batch=_batch(plan),
        optimizer=plan.training.optimizer,
        rate=plan.training.learning_rate,
        schedule=plan.training.schedule,
        digest=info.digest,
        fingerprint=info.fingerprint,
        metrics=_metrics_table(rounds),
    )


def _plain(text: str, length: int = 60) -> str:
    """What organizations wrote, as words and not as Markdown or HTML."""
    return re.sub(r"([\\`*<>|#!&~$]|\](?=\())", r"\\\1", printable(text, length))


def _batch(plan: Plan) -> str:
    if plan.privacy.unit == "user":
        return f"{plan.training.batch_size} users, at most {plan.privacy.records_per_user} records of each"
    return f"{plan.training.batch_size} examples"


def _privacy_table(organizations: list[dict[str, Any]]) -> str:
    if not organizations:
        return "ε: none (null). This adapter may reveal the records that it was trained on.\n"
    lines = [
        "| organization | ε of this run | δ | unit | mechanism |",
        "|---|---|---|---|---|",
    ]
    for item in organizations:
        mechanism = item["mechanisms"][0]
        lines.append(
            f"| {_plain(item['name'])} | {item['epsilon']:.2f} | {item['delta']:g} "
            f"| {_plain(item['unit'])}, {_plain(item['adjacency'])} "
            f"| {mechanism['kind']}, q = {mechanism['sample_rate']:.4g}, "
            f"σ = {mechanism['noise_multiplier']:g}, {mechanism['steps']} steps |"
        )
    return "\n".join(lines) + "\n"


def _not_covered(report: dict[str, Any]) -> str:
    if not report["organizations"]:
        return ""
    return "\n".join(["Not covered:", "", *(f"- {item}" for item in report["not_covered"])]) + "\n"


def _metrics_table(rounds: Sequence[RoundLine]) -> str:
    if not rounds or not rounds[-1].metrics:
        return "None: the plan names no public data.\n"
    first, last = rounds[0].metrics, rounds[-1].metrics
    lines = ["| | base model | this adapter |", "|---|---|---|"]
    lines += [f"| {name} | {first.get(name, float('nan')):.4g} | {value:.4g} |" for name, value in last.items()]
    return "\n".join(lines) + "\n"
