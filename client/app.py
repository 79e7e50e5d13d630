"""The relay: a Flower message in, the vault's answer out. It opens no records and knows no policy."""

from __future__ import annotations

import logging

from flwr.app import Message, RecordDict

from common import messages
from common.errors import Refused
from common.protocol import Participant

_log = logging.getLogger(__name__)


def answer(message: Message, participant: Participant) -> Message:
    """Ask the participant what the message asks, and pack what it says.

    Whatever goes wrong becomes a reason code. The text of an exception stays in the organization's own log:
    Flower would send it to the server whole.
    """
    try:
        content = _ask(message, participant)
    except Refused as refusal:
        content = messages.pack_refusal(refusal)
    except messages.MessageError as error:
        content = messages.pack_refusal(Refused("malformed-request", str(error)))
    except Exception:
        _log.exception("a %s message failed", message.metadata.message_type)
        content = messages.pack_refusal(Refused("training-failed", ""))
    return Message(content, reply_to=message)


def _ask(message: Message, participant: Participant) -> RecordDict:
    kind = message.metadata.message_type
    if kind == messages.DESCRIBE:
        return messages.pack_description(participant.describe())
    if kind == messages.TRAIN:
        return messages.pack_release(participant.train(messages.unpack_train(message.content)))
    if kind == messages.STATEMENT:
        return messages.pack_statement(participant.statement(messages.unpack_query(message.content)))
    raise messages.MessageError(f"unknown kind of message: {kind[:80]!r}")
