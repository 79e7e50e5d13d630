"""The tensors that cross the boundary: the adapter that a round starts from, and the update that it releases."""

from __future__ import annotations

from client.vault.training.entropy import Keystream
from common.adapter.adapter import Adapter, AdapterError, from_bytes, sent, subtract, to_wire
from common.errors import Refused
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.protocol.protocol import TrainRequest


def received(request: TrainRequest, plan: Plan, model: LoraModel) -> Adapter:
    """The adapter of a request, decoded: what training starts from, and what its update is relative to.

    Raises:
        Refused: it does not hold what plan and round ask for, in the plan's number format.
    """
    shapes = sent(model.trained_shapes, head_only=plan.training.is_head_alone(request.round))
    try:
        return from_bytes(request.adapter, shapes, plan.wire.adapter)
    except AdapterError as error:
        raise Refused("malformed-request", f"the adapter: {error}") from None


def released(model: LoraModel, start: Adapter, plan: Plan, stream: Keystream) -> bytes:
    """What has changed, as it is sent: post-processing of tensors that are noised already, which costs no ε.

    Args:
        model: after the training, whose every step was noised.
        start: what `received` gave.
        plan: says the number format.
        stream: of the round, with all noise drawn. The rounding takes a branch behind the noise: it can neither
            move the noise nor repeat a number of it.
    """
    after = model.adapter()
    update = subtract({name: after[name] for name in start}, start)
    return to_wire(update, plan.wire.update, stream.branch())
