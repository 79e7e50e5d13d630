"""`sotto …` in which what works on records fails, and puts their text wherever it can: FOLDER ARGUMENT….

What fails is named by the file `stage` in the folder, so that one process can fail in many ways.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sqlite3
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import PreTrainedTokenizerBase

import client.vault.start
import client.vault.vault
import sotto
from client.vault.ledger.ledger import Ledger
from common.tasks.causal_lm import CausalLM

_seen = ""


class Panic(BaseException):
    """As a library of Rust raises it: no `Exception`."""


def stage(folder: Path) -> str:
    return (folder / "stage").read_text()


def shout() -> None:
    """The text of the last record, in every way that does not stop the program."""
    text = f"cannot split {_seen!r}"
    logging.getLogger("transformers.tokenization").error("%s", text)
    logging.getLogger("grpc._server").exception("Exception calling application: %s", text)
    logging.getLogger().critical(text)
    warnings.warn(text, stacklevel=1)
    sys.stdout.write(text)
    sys.stderr.write(text)
    for number in (1, 2):
        os.write(number, text.encode())
    ctypes.CDLL(None).printf(b"%s", text.encode())
    thread = threading.Thread(target=fail, args=(RuntimeError,))
    thread.start()
    thread.join()


def fail(kind: type[BaseException], *_: Any, **__: Any) -> NoReturn:
    """As a library fails: the text in the message, in the cause, and in a note."""
    try:
        raise KeyError(_seen)
    except KeyError as error:
        failure = kind(f"out of memory at {_seen!r}")
        failure.add_note(_seen)
        raise failure from error


def main() -> None:
    folder = Path(sys.argv[1])
    tokenize = PreTrainedTokenizerBase.__call__

    def tokenized(self: Any, text: Any = None, *rest: Any, **more: Any) -> Any:
        global _seen
        _seen = str(text)
        if stage(folder) == "shouting":
            shout()
        if stage(folder) == "tokenizer":
            fail(ValueError)
        if stage(folder) == "panic":
            fail(Panic)
        return tokenize(self, text, *rest, **more)

    def failing(name: str, kind: type[BaseException], real: Any) -> Any:
        return lambda *values, **more: fail(kind) if stage(folder) == name else real(*values, **more)

    def grouped(*values: Any) -> Any:
        global _seen
        _seen = str(values[0])
        return failing("start", RuntimeError, group)(*values)

    group = client.vault.start.group_by_user
    PreTrainedTokenizerBase.__call__ = tokenized
    client.vault.start.group_by_user = grouped
    CausalLM.losses = failing("loss", torch.OutOfMemoryError, CausalLM.losses)
    client.vault.vault.take_steps = failing("train", RuntimeError, client.vault.vault.take_steps)
    Ledger.settle = failing("settle", sqlite3.OperationalError, Ledger.settle)
    sys.argv = ["sotto", *sys.argv[2:]]
    sotto.main()


if __name__ == "__main__":
    main()
