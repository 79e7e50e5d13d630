"""The relay: answers Flower messages by asking the vault. It opens no records, reads no policy, needs no torch."""

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

# How long a vault may be unavailable, for example while it restarts, before this is reported to the coordinator.
_PATIENCE_SECONDS = 60.0
# No round takes longer. The times in a message are untrusted: they may be infinite or NaN.
_MAX_SECONDS = 7 * 86400.0

# Flower's build parses this line as text: it must not have a type annotation.
app = ClientApp()


@app.query("describe")
@app.query("statement")
@app.train()
def relay(message: Message, context: Context) -> Message:
    """Forward a message to the vault. The socket is set by the relay, not by anything that the server sent."""
    remaining = message.metadata.created_at + message.metadata.ttl - time.time()
    timeout = min(
        max(1.0, remaining), _MAX_SECONDS
    )  # the order matters: max returns its first argument if the other is NaN
    with RemoteVault(Path(str(context.node_config["socket"])), timeout, _PATIENCE_SECONDS) as vault:
        return answer(message, vault)


def answer(message: Message, participant: Participant) -> Message:
    """Forward the message to the participant, and pack its answer.

    Every error becomes a refusal with a reason code. The text of an exception never leaves the organization:
    Flower would send it to the server in full.
    """
    try:
        content = _ask(message, participant)
    except codec.MessageError as error:
        content = codec.pack_refusal(Refused("malformed-request", str(error)))
    except Exception as error:  # Flower would send its text to the server
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
