"""How many examples may go through the model together, so that none of them can tell.

A unit's gradient must have the same bits in every row of a micro-batch, whatever the other rows hold: the server
chooses the adapter, and an ill-conditioned one turns a last bit into a whole gradient. Matrix kernels do not
promise that: for some shapes the last rows are rounded in another way. So before any spend each shape that a
plan can give is tried, with synthetic examples and with adapters that a server could choose. A shape that fails is
tried with fewer rows, down to one.

This is a test and no proof; with one row a micro-batch there would be nothing to prove.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch

from client.vault.training.artificial_adapters import fill_randomly, restored, share_a_row
from client.vault.training.errors import GuaranteeError, OutOfMemoryError, is_out_of_memory
from client.vault.training.micro_batches import MicroBatch, rows_at
from client.vault.training.per_example import Parameters, PerExampleGradients, finite_rows
from common.model.model import LoraModel
from common.model.precision import computing_in, repeatable_kernels
from common.plan.plan import Plan
from common.tasks import Example, Task, padded_length
from common.tasks.classification import Classification
from common.tasks.text import device_of

_Encoded = Callable[[Sequence[Example], int], list[Example]]
# What a kind of round trains, and what makes vectors of its examples, where the head alone is trained.
Kind = tuple[Parameters, _Encoded | None]

_ORDINARY = 0.05
_ILL_CONDITIONED = (1e4, 1e8)


def checked_rows(
    model: LoraModel, task: Task, plan: Plan, max_tokens: int, precision: torch.dtype = torch.float32
) -> dict[int, int]:
    """Try every shape that a plan can give. The model's parameters are left as they were.

    Args:
        model: in training mode, with the plan's layers.
        task: makes up the examples.
        plan: its `max_length` bounds the lengths; it says which tensors its rounds train.
        max_tokens: padded tokens of a micro-batch.
        precision: of the matrix products.

    Returns:
        Padded length → rows, for the shapes that need fewer than `max_tokens` allows.

    Raises:
        GuaranteeError: a length fails also in a row of its own, or does not fit the model or the memory.
    """
    fewer: dict[int, int] = {}
    longest = plan.task.max_length
    with restored(model.trained_parameters()):
        # The longest first: what does not fit the positions or the memory fails before anything else is tried.
        for length in range(padded_length(longest), 0, -16):
            examples = task.synthetic(2, min(length - 1, longest))
            most = rows_at(length, max_tokens)
            rows = rows_that_agree(
                model.module,
                lambda: _kinds_of_round(model, task, plan, precision),
                task,
                examples,
                length,
                most,
                precision,
            )
            if rows < most:
                fewer[length] = rows
    return fewer


def gradient_digest(
    model: LoraModel,
    task: Task,
    plan: Plan,
    max_tokens: int,
    precision: torch.dtype,
    fewer: Mapping[int, int],
) -> str:
    """What gradients are here, to the last bit: equal on devices that may train one model together.

    Args:
        model: as for `checked_rows`, and so `task` and `plan`.
        task: makes up the examples.
        plan: its `max_length` bounds the lengths; it says which tensors its rounds train.
        max_tokens: padded tokens of a micro-batch.
        precision: of the matrix products.
        fewer: what `checked_rows` gave.

    Returns:
        The SHA-256 of the gradients of full micro-batches of each length, also for an ill-conditioned adapter.
    """
    digest = hashlib.sha256()
    longest = plan.task.max_length
    with restored(model.trained_parameters()):
        for length in range(padded_length(longest), 0, -16):
            one, *_ = task.synthetic(1, min(length - 1, longest))
            layout = [one] * rows_at(length, max_tokens, fewer)
            for kind in _kinds_of_round(model, task, plan, precision):
                # The worst adapter may leave no finite gradient, which would compare nothing.
                for fill in _adapters(kind[0])[:-1]:
                    fill()
                    rows = _gradients_of(one, layout, model.module, kind, task, length, precision)
                    digest.update(rows.cpu().numpy().tobytes())
    return digest.hexdigest()


def try_longest(model: LoraModel, task: Task, plan: Plan, max_tokens: int, precision: torch.dtype) -> None:
    """Compute one full micro-batch of the longest examples, so that what it takes can be measured.

    Args:
        model: as for `checked_rows`, and so the others.
        task: makes up the examples.
        plan: its `max_length` bounds the lengths.
        max_tokens: padded tokens of a micro-batch.
        precision: of the matrix products.
    """
    longest = plan.task.max_length
    one, *_ = task.synthetic(1, longest)
    layout = [one] * rows_at(padded_length(longest), max_tokens)
    for kind in _kinds_of_round(model, task, plan, precision):
        _gradients_of(one, layout, model.module, kind, task, padded_length(longest), precision)


def rows_that_agree(
    model: torch.nn.Module,
    kinds: Callable[[], Iterable[Kind]],
    task: Task,
    examples: Sequence[Example],
    length: int,
    most: int,
    precision: torch.dtype,
) -> int:
    """The most rows of one padded length in which an example has the same gradient everywhere.

    Args:
        model: in training mode; its trained tensors are overwritten.
        kinds: gives what rounds train: the tensors, and what makes vectors of examples, if anything does.
        task: gives each example its loss.
        examples: two of them, of this padded length.
        length: in tokens.
        most: rows to begin with.
        precision: of the matrix products.

    Raises:
        GuaranteeError: also one row fails, or the examples do not fit the model or the memory.
    """
    rows = most
    try:
        while not all(_agree(model, kind, task, examples, length, rows, precision) for kind in kinds()):
            if rows == 1:
                raise GuaranteeError(f"the gradient of {length} tokens is not the same each time")
            rows = _next(rows)
    except GuaranteeError:
        raise
    except (IndexError, RuntimeError, MemoryError) as error:
        texts = f"{rows} texts of {len(examples[0])} tokens, padded to {length},"
        if is_out_of_memory(error):
            raise OutOfMemoryError(f"{texts} do not fit the memory: task.max_length should be smaller") from None
        raise GuaranteeError(
            f"{texts} cannot be trained on here ({type(error).__name__}): task.max_length should be smaller"
        ) from None
    return rows


def _next(rows: int) -> int:
    """The next power of two below."""
    return 1 << (rows - 1).bit_length() - 1


def _kinds_of_round(model: LoraModel, task: Task, plan: Plan, precision: torch.dtype) -> Iterator[Kind]:
    """What rounds train, and how examples reach it: as tokens, or as vectors where the head alone is trained.

    The tensors of a kind are those that need a gradient only until the next kind is asked for.
    """
    training = plan.training
    if training.head_rounds < training.rounds:
        yield model.trained_parameters(), None
    if training.head_rounds:
        frozen: _Encoded | None = None
        if isinstance(task, Classification):
            known = task

            def frozen(examples: Sequence[Example], length: int) -> list[Example]:
                device = device_of(model.module)
                with torch.no_grad(), repeatable_kernels(device), computing_in(precision, device):
                    return known.frozen(model.module, examples, length)

        yield model.trained_parameters(head_only=True), frozen


def _agree(
    model: torch.nn.Module,
    kind: Kind,
    task: Task,
    examples: Sequence[Example],
    length: int,
    rows: int,
    precision: torch.dtype,
) -> bool:
    """Whether one example has the same gradient in every row, beside itself and beside others."""
    one, other = examples[0], examples[-1]
    layouts = [
        [one] * rows,
        [one if place % 2 == 0 else other for place in range(rows)],
        [other if place % 2 == 0 and rows > 1 else one for place in range(rows)],
    ]
    for number, fill in enumerate(_adapters(kind[0])):
        fill()
        # The first layout shows little that the others do not: with the ordinary adapter alone.
        seen = [
            _gradients_of(one, layout, model, kind, task, length, precision)
            for layout in (layouts if number == 0 else layouts[1:])
        ]
        if not all(torch.equal(seen[0][0], row) for block in seen for row in block):
            return False
    return True


def _gradients_of(
    one: Example,
    layout: Sequence[Example],
    model: torch.nn.Module,
    kind: Kind,
    task: Task,
    length: int,
    precision: torch.dtype,
) -> torch.Tensor:
    """The gradients of one example wherever it stands in a micro-batch, shape (times, numbers)."""
    parameters, encoded = kind
    places = [place for place, example in enumerate(layout) if example is one]
    if encoded is not None:
        layout, length = encoded(layout, length), padded_length(1)
    with PerExampleGradients(model, parameters, precision) as gradients:
        return finite_rows(gradients.rows(task, MicroBatch(tuple(layout), length, len(layout))))[places]


def _adapters(parameters: Parameters) -> list[Callable[[], None]]:
    """An ordinary adapter, and two whose outputs differ by rounding alone."""
    return [
        lambda: fill_randomly(parameters, _ORDINARY),
        *(lambda scale=scale: share_a_row(parameters, scale) for scale in _ILL_CONDITIONED),
    ]
