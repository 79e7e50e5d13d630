"""Bugs by which rounding, a record's failure, or the order of things tells of a record."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import client.vault.preparation
import client.vault.records.units
import client.vault.training.exact
import client.vault.training.rows
import client.vault.workers.pool
from client.vault.reply_time import ReplyTime
from common.tasks import UnusableError
from tests.mutants.mutant import replace_everywhere


def rows_not_checked() -> None:
    """No shape of micro-batch is tried before a run is charged."""
    replace_everywhere(client.vault.training.rows.checked_rows, lambda *_: {})


def workers_not_compared() -> None:
    """Workers whose gradients differ in the last bits train one model together."""
    replace_everywhere(client.vault.workers.pool._equal, lambda answers, _: answers[0])


def float_sum() -> None:
    """Clipped gradients added as floating-point numbers: the sum depends on their order."""

    def clipped_integers(gradients: torch.Tensor, clipping_norm: float) -> torch.Tensor:
        norms = torch.linalg.vector_norm(gradients, dim=1)
        total = (clipping_norm / norms).clamp(max=1.0) @ gradients
        return (total * (2.0**40 / clipping_norm)).round().to(torch.int64)

    replace_everywhere(client.vault.training.exact.clipped_integers, clipped_integers)


def no_grid() -> None:
    """The noised sum is released as the floating-point number that it is."""
    exact = client.vault.training.exact

    def on_grid(total: Any, noise_multiplier: float, stream: Any) -> Any:
        half = (len(total) + 1) // 2
        noise = exact.gaussian_pairs(stream.uniforms(half), stream.uniforms(half))[: len(total)]
        stream.branch()
        return total * 2.0**-40 + noise_multiplier * np.asarray(noise)

    replace_everywhere(exact.on_grid, on_grid)


def panic_passes() -> None:
    """A tokenizer's panic in Rust, which is no Exception, ends the request."""
    units = client.vault.records.units

    def encode(record: Any, task: Any, transform: Any) -> Any:
        try:
            return task.encode(transform(record))
        except (UnusableError, Exception):
            return ()

    replace_everywhere(units._encode, encode)


def probe_of_twelve_tokens() -> None:
    """The longest text that is tried before a run is charged has twelve tokens."""
    rows = client.vault.training.rows
    agree = rows.rows_that_agree

    def rows_that_agree(model: Any, kinds: Any, task: Any, examples: Any, length: Any, *rest: Any) -> int:
        return agree(model, kinds, task, task.synthetic(2, min(length - 1, 12)), length, *rest)

    replace_everywhere(agree, rows_that_agree)


def every_field_read() -> None:
    """A field of any size is encoded."""
    replace_everywhere(client.vault.records.units.without_oversized, lambda record: record)


def answer_at_once() -> None:
    """A round is settled when its training ends, whatever vault.reply_seconds is."""
    ReplyTime.wait = lambda _: None  # type: ignore[method-assign]


def encode_before_charge() -> None:
    """Records are encoded while the model is prepared, whether or not the run is charged then."""
    preparation = client.vault.preparation.PlanPreparation
    prepare = preparation.prepare

    def prepared(self: Any, plan: Any, fingerprint: str) -> Any:
        made = prepare(self, plan, fingerprint)
        made.units()
        return made

    preparation.prepare = prepared  # type: ignore[method-assign]
