"""Tokens in place of spans of a text, and where each place of the text is afterwards."""

from __future__ import annotations

from dataclasses import dataclass

from client.vault.policy.organization import Entity

# Look-alikes of ASCII, one character for one, so that places stay: full-width forms, spaces, hyphens.
PLAIN = {
    **{0xFF01 + place: 0x21 + place for place in range(94)},
    **dict.fromkeys([0x3000, 0xA0, 0x2007, 0x2009, 0x202F], 0x20),
    **dict.fromkeys([*range(0x2010, 0x2016), 0x2212], 0x2D),
}


@dataclass(frozen=True)
class Span:
    """A part of a text that gives way to a token.

    Attributes:
        kind: what it is.
        begin: its first character.
        end: the one after its last.
    """

    kind: Entity
    begin: int
    end: int

    @property
    def token(self) -> str:
        """What stands in its place."""
        return token(self.kind)


@dataclass(frozen=True)
class Pass:
    """One look at a text.

    Attributes:
        text: as it was.
        spans: what gives way, in order, none overlapping another.
    """

    text: str
    spans: tuple[Span, ...]

    def replaced(self) -> str:
        """The text with tokens."""
        parts, done = [], 0
        for span in self.spans:
            parts += [self.text[done : span.begin], span.token]
            done = span.end
        return "".join(parts) + self.text[done:]

    def moved(self, begin: int, end: int) -> tuple[int, int]:
        """Where a part of the text is afterwards; what is partly replaced is widened to the whole token."""
        return self._moved(begin, is_end=False), self._moved(end, is_end=True)

    def _moved(self, place: int, *, is_end: bool) -> int:
        shift = 0
        for span in self.spans:
            if place <= span.begin if is_end else place < span.begin:
                break
            longer = len(span.token) - (span.end - span.begin)
            if place < span.end:
                return span.begin + shift + (len(span.token) if is_end else 0)
            shift += longer
        return place + shift


@dataclass(frozen=True)
class Anonymized:
    """A text without what was found in it.

    Attributes:
        text: with tokens.
        passes: how it came to be; none if nothing was found.
    """

    text: str
    passes: tuple[Pass, ...] = ()

    def moved(self, begin: int, end: int) -> tuple[int, int]:
        """Where a part of the original text is now."""
        for one in self.passes:
            begin, end = one.moved(begin, end)
        return begin, end


def token(kind: Entity) -> str:
    """What stands in the place of a kind: "national-id" gives <NATIONAL_ID>."""
    return f"<{kind.upper().replace('-', '_')}>"
