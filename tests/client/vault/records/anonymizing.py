"""What the tests of anonymization share."""

from __future__ import annotations

from typing import Any

from presidio_analyzer import EntityRecognizer

CANARY = "canary.bird77@example.com"


class Broken(EntityRecognizer):
    """Fails on a text with a word, and says the text."""

    def __init__(self) -> None:
        super().__init__(supported_entities=["BROKEN"])

    def load(self) -> None:
        """Nothing to load."""

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[Any]:
        if "4711" in text:
            raise RuntimeError(text)
        return []
