"""The tensors that cross the trust boundary: the adapter that a round starts from, and the update it releases."""

from __future__ import annotations

from client.vault.training.entropy import Keystream
from common.adapter.adapter import Adapter, AdapterError, from_bytes, round_shapes, subtract, to_wire
from common.errors import Refused
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.protocol.protocol import TrainRequest


def decode_adapter(request: TrainRequest, plan: Plan, model: LoraModel) -> Adapter:
    """Decode the adapter of a request: training starts from it, and the update is relative to it.

    Raises:
        Refused: it does not contain exactly the tensors of this plan and round, in the plan's number format.
    """
    shapes = round_shapes(model.trained_shapes, head_only=plan.training.is_head_alone(request.round))
    try:
        return from_bytes(request.adapter, shapes, plan.wire.adapter)
    except AdapterError as error:
        raise Refused("malformed-request", f"the adapter: {error}") from None


def encode_update(model: LoraModel, start: Adapter, plan: Plan, stream: Keystream) -> bytes:
    """Encode the update of a round. This is post-processing of tensors that are already noised and costs no ε.

    Args:
        model: the model after training; every step was noised.
        start: the adapter that `decode_adapter` returned.
        plan: the plan; it sets the number format.
        stream: the round's keystream, after all noise has been drawn. Rounding uses a separate branch of it, which
            can neither shift the noise nor reuse any of its random numbers.
    """
    after = model.adapter()
    update = subtract({name: after[name] for name in start}, start)
    return to_wire(update, plan.wire.update, stream.branch())
