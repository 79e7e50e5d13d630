"""The model card of an adapter: training, privacy, evaluation, use."""

from __future__ import annotations

import re
from collections.abc import Sequence

from common.plan.plan import Plan
from common.plan.task import TaskSection
from common.report.report import OrganizationEntry, PrivacyReport, two_decimals
from common.run.round_line import RoundLine
from common.run.selection import result_line, selection_note
from common.run.summary import RunSummary
from common.untrusted import printable

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
| rounds × local steps | {rounds} × {steps}{stopped} |
| expected batch of an organization | {batch} |
| optimizer | {optimizer}, learning rate {rate:g}, {schedule} |
| plan digest | `{digest}` |
| base model fingerprint | `{fingerprint}` |

## Evaluation on public data

{metrics}{choice}
## Use

{use}"""


_USE = """```python
from peft import PeftModel
from transformers import {kind}, AutoTokenizer

base = {kind}.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("{base}")
```
"""

_HEAD = """
`head.safetensors` holds a linear layer in float32: `outputs = vectors @ weight.T`. {vector} Its outputs are
{outputs}.
"""

_VECTORS = {
    "mean": "A text's vector is the mean of `model(...).last_hidden_state` over its tokens, scaled to length 1.",
    "first": "A text's vector is `model(...).last_hidden_state` of its first token, scaled to length 1.",
    "last": "A text's vector is `model(...).last_hidden_state` of its last token, scaled to length 1.",
    None: "There is a vector for each token: `model(...).last_hidden_state`, scaled to length 1.",
}
_CONCATENATED = (
    " The same is done for each of the last {layers} of `model(..., output_hidden_states=True).hidden_states`, "
    "the vectors are concatenated, the last layer last, and the whole is scaled to length 1."
)


def adapter_card(run: RunSummary, report: PrivacyReport, pooling: str | None = None) -> str:
    """Return the text of an adapter folder's README.md.

    Args:
        run: the run that trained the adapter.
        report: its privacy report.
        pooling: how the head pools the vectors of tokens; None for a head of tokens, or without a head.
    """
    plan, rounds = run.plan, run.rounds
    asked = rounds[-1].organizations.get("asked", []) if rounds else []
    selection = selection_note(plan, rounds, private=run.private)
    return _CARD.format(
        run=run.run,
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
        stopped=_stopped(plan, rounds),
        batch=_batch(plan),
        optimizer=plan.training.optimizer,
        rate=plan.training.learning_rate,
        schedule=plan.training.schedule,
        digest=plan.digest(),
        fingerprint=run.fingerprint,
        metrics=_metrics_table(plan, rounds),
        choice=f"\n{selection}\n" if selection else "",
        use=_use(plan.task, plan.model.base, pooling),
    )


def _use(section: TaskSection, base: str, pooling: str | None) -> str:
    if section.head_outputs is None:
        kind = "AutoModelForSeq2SeqLM" if section.is_encoder_decoder else "AutoModelForCausalLM"
        return _USE.format(kind=kind, base=base)
    outputs = (
        f"scores of the labels in `plan.toml`, in that order ({len(section.labels)})"
        if section.labels
        else "two: how well a token begins the answer, and how well it ends it"
    )
    vector = _VECTORS[pooling]
    if section.pooling_layers is not None and section.pooling_layers > 1:
        vector += _CONCATENATED.format(layers=section.pooling_layers)
    return _USE.format(kind="AutoModel", base=base) + _HEAD.format(vector=vector, outputs=outputs)


def _plain(text: str, length: int = 60) -> str:
    """Escape Markdown and HTML in text from an organization."""
    return re.sub(r"([\\`*<>|#!&~$]|\](?=\())", r"\\\1", printable(text, length))


def _batch(plan: Plan) -> str:
    if plan.privacy.unit == "user":
        return f"{plan.training.batch_size} users, at most {plan.privacy.records_per_user} records of each"
    return f"{plan.training.batch_size} examples"


def _privacy_table(organizations: list[OrganizationEntry]) -> str:
    if not organizations:
        return "ε: none (null). This adapter may reveal the records that it was trained on.\n"
    lines = [
        "| organization | ε of this run | δ | unit | mechanism |",
        "|---|---|---|---|---|",
    ]
    for item in organizations:
        mechanism = item["mechanisms"][0]
        doubt = " (its statement does not hold)" if item["problems"] else ""
        lines.append(
            f"| {_plain(item['name'])}{doubt} | {two_decimals(item['epsilon'])} | {item['delta']:g} "
            f"| {_plain(item['unit'])}, {_plain(item['adjacency'])} "
            f"| {mechanism['kind']}, q = {mechanism['sample_rate']:.4g}, "
            f"σ = {mechanism['noise_multiplier']:g}, {mechanism['steps']} steps |"
        )
    return "\n".join(lines) + "\n"


def _not_covered(report: PrivacyReport) -> str:
    if not report["organizations"]:
        return ""
    return "\n".join(["Not covered:", "", *(f"- {item}" for item in report["not_covered"])]) + "\n"


def _stopped(plan: Plan, rounds: Sequence[RoundLine]) -> str:
    is_early = rounds and rounds[-1].round < plan.training.rounds
    return f", stopped early after round {rounds[-1].round}" if is_early else ""


def _metrics_table(plan: Plan, rounds: Sequence[RoundLine]) -> str:
    if not rounds or not result_line(plan, rounds).metrics:
        return "None: the plan names no public data.\n"
    first, last = rounds[0].metrics, result_line(plan, rounds).metrics
    lines = ["| | base model | this adapter |", "|---|---|---|"]
    lines += [f"| {name} | {first.get(name, float('nan')):.4g} | {value:.4g} |" for name, value in last.items()]
    return "\n".join(lines) + "\n"
