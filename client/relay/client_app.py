"""The relay: a Flower message in, the vault's answer out. It opens no records, knows no policy, needs no torch."""

from __future__ import annotations

import time
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.channel.refusal import refusal_for
from client.relay.vault_client import RemoteVault
from common.errors import Refused
from common.flower import codec
from common.protocol.protocol import Participant

# How long a vault may be away, restarting for instance, before its coordinator is told.
_PATIENCE_SECONDS = 60.0
# No round takes longer. What a message says of its own time may be infinite, or no number.
_LONGEST_SECONDS = 7 * 86400.0

# Flower's build reads this line as text: it must not carry an annotation.
app = ClientApp()


@app.query("describe")
@app.query("statement")
@app.train()
def relay(message: Message, context: Context) -> Message:
    """Ask the vault behind the socket that the organization's own node configuration names."""
    left = message.metadata.created_at + message.metadata.ttl - time.time()
    timeout = min(max(1.0, left), _LONGEST_SECONDS)  # in this order: of NaN the first argument is taken
    with RemoteVault(Path(str(context.node_config["socket"])), timeout, _PATIENCE_SECONDS) as vault:
        return answer(message, vault)


def answer(message: Message, participant: Participant) -> Message:
    """Ask the participant what the message asks, and pack what it says.

    Whatever goes wrong becomes a reason code. The text of an exception stays in the organization's own log:
    Flower would send it to the server whole.
    """
    try:
        content = _ask(message, participant)
    except codec.MessageError as error:
        content = codec.pack_refusal(Refused("malformed-request", str(error)))
    except Exception as error:  # its text would leave with Flower's own error
        content = codec.pack_refusal(refusal_for(error, f"a {message.metadata.message_type} message"))
    return Message(content, reply_to=message)


def _ask(message: Message, participant: Participant) -> RecordDict:
    kind = message.metadata.message_type
    if kind == codec.DESCRIBE:
        return codec.pack_description(participant.describe())
    if kind == codec.TRAIN:
        return codec.pack_release(participant.train(codec.unpack_train(message.content)))
    if kind == codec.STATEMENT:
        return codec.pack_statement(participant.statement(codec.unpack_query(message.content)))
    raise codec.MessageError(f"unknown kind of message: {kind[:80]!r}")
