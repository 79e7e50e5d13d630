"""What is looked for in texts, and how sure a match must be: presidio's recognizers and patterns of our own.

They are used one by one, without presidio's engine, so that no language model is needed. Only those are here that
end in a check digit or have a clear shape; a number that could be anything counts beside a word that says what it
is. Nothing is asked for over a network. Imported only where `[data.anonymize]` is asked for, since presidio brings
spaCy and that takes seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import phonenumbers
import regex
from presidio_analyzer import EntityRecognizer, Pattern, PatternRecognizer, pattern_recognizer
from presidio_analyzer import predefined_recognizers as presidio

from client.vault.policy.organization import Anonymize, Entity
from client.vault.records import patterns
from common.errors import InputError

# A match counts from this score on. Presidio gives 1.0 where a check digit is right, 0.5 to 0.8 for clear shapes,
# and 0.01 to 0.4 for what needs context.
THRESHOLD = 0.5
_CLEAR = 0.75
_WEAK = 0.3

# Characters before and after a match in which a word makes a weak match count.
_BEFORE, _AFTER = 40, 20

# Candidates after which libphonenumber looks no further; each has a digit at least.
_MOST_TRIES = 65_535
_PHONE_WORDS = (
    "phone", "telephone", "tel", "mobile", "cell", "call", "fax", "whatsapp",
    "电话", "手机", "座机", "传真", "热线", "联系",
)  # fmt: skip
_PASSPORT_WORDS = ("passport", "护照", "通行证")

# Presidio's recognizers of national identifiers whose good matches have a check letter or a shape of their own,
# and the words beside which their weaker ones count too.
_CLEAR_IDS: dict[str, Sequence[str]] = {
    "UsSsnRecognizer": ("social security", "ssn", "ssns"),
    "UsItinRecognizer": ("itin", "taxpayer"),
    "EsNifRecognizer": (),
    "EsNieRecognizer": (),
    "FiPersonalIdentityCodeRecognizer": (),
    "ItFiscalCodeRecognizer": (),
    "SgFinRecognizer": ("nric", "fin"),
}
# Those that are digits alone: every tenth number has the right check digit by chance. They need a word.
_BARE_IDS: dict[str, Sequence[str]] = {
    "NhsRecognizer": ("nhs", "national health service"),
    "PlPeselRecognizer": ("pesel",),
    "DeTaxIdRecognizer": ("steueridentifikationsnummer", "steuer-id", "steuerid", "idnr", "steuernummer"),
    "InAadhaarRecognizer": ("aadhaar", "uidai"),
    "AuTfnRecognizer": ("tfn", "tax file number"),
    "AuMedicareRecognizer": ("medicare",),
    "CaSinRecognizer": ("sin", "social insurance", "assurance sociale"),
    "TrNationalIdRecognizer": ("tckn", "tc no", "kimlik", "turkish id"),
    "ThTninRecognizer": ("tnin", "thai id", "thai national id", "เลขประจำตัวประชาชน", "เลขบัตรประชาชน"),
    "ZaIdNumberRecognizer": ("south african id", "rsa id", "identity number"),
    "SePersonnummerRecognizer": ("personnummer", "samordningsnummer", "personal identity number"),
    "KrRrnRecognizer": ("rrn", "resident registration", "주민등록번호"),
}
# Two digits for the year look like versions, a month alone like a word.
_UNCLEAR_DATES = ("dd.mm.yyyy or dd.mm.yy", "MMM-yyyy or MMM-yy", "dd-MMM or dd-MMM")


@dataclass(frozen=True)
class Match:
    """A part of a text.

    Attributes:
        kind: what it is.
        begin: its first character.
        end: the one after its last.
        score: from 0 to 1.
    """

    kind: Entity
    begin: int
    end: int
    score: float


@dataclass(frozen=True)
class Look:
    """One recognizer, and when it is believed.

    Attributes:
        kind: what it finds.
        recognizer: finds it.
        digits: a text with fewer digits has none of it.
        words: beside one of them a match with a low score counts too.
        always_words: none counts without.
        unless: what must not stand right before it.
    """

    kind: Entity
    recognizer: EntityRecognizer
    digits: int = 0
    words: Any = None
    always_words: bool = False
    unless: Any = None

    def matches(self, text: str, field: str) -> Iterator[Match]:
        """What counts in a text in which look-alikes of ASCII are ASCII.

        Args:
            text: to look at.
            field: the name of what holds the text; it is a word beside each match.

        Raises:
            TimeoutError: presidio gave a pattern up, and the rest of the text was not looked at.
        """
        started = time.process_time()
        found = self.recognizer.analyze(text, self.recognizer.supported_entities, None)
        # It only logs that, and goes on as if there were no more. Its clock is that of the process.
        if time.process_time() - started >= pattern_recognizer.REGEX_TIMEOUT_SECONDS:
            raise TimeoutError
        for one in found:
            if _is_whole(text, one.start, one.end) and self._counts(text, field, one):
                yield Match(self.kind, one.start, one.end, one.score)

    def _counts(self, text: str, field: str, one: Any) -> bool:
        before = text[max(0, one.start - _BEFORE) : one.start]
        if self.unless is not None and self.unless.search(before):
            return False
        if one.score >= THRESHOLD and not self.always_words:
            return True
        if self.words is None:
            return False
        return any(map(self.words.search, (before, text[one.end : one.end + _AFTER], field)))


def looks(settings: Anonymize) -> list[Look]:
    """The recognizers that an organization asks for.

    Raises:
        InputError: a region is none that telephone numbers are known of.
    """
    made = [*_everywhere(), *_phones(settings.phone_regions)]
    made += _english() if "en" in settings.languages else []
    made += _chinese() if "zh" in settings.languages else []
    return [look for look in made if look.kind in settings.entities]


def _everywhere() -> Iterator[Look]:
    # First: a Chinese identity number can have the check digit of a card as well.
    yield from _national_ids()
    yield Look("email", _own("EMAIL", patterns.EMAIL))
    yield Look("url", _own("URL", *patterns.URLS))
    yield Look("ip-address", _in_ascii(_Addresses()), 1, unless=regex.compile(patterns.VERSION))
    # Presidio's own pattern takes any 16 digits that begin with 1; its check digit stays.
    cards = presidio.CreditCardRecognizer([Pattern("card", one, _WEAK) for one in patterns.CARDS])
    yield Look("card", _in_ascii(cards), 14)
    yield Look("iban", _in_ascii(presidio.IbanRecognizer()), 8)
    dates = [
        one
        for one in presidio.DateRecognizer.PATTERNS
        if one.score >= THRESHOLD and one.name not in _UNCLEAR_DATES
    ]
    yield Look("date", _in_ascii(presidio.DateRecognizer([_copied(one) for one in dates])), 3)
    yield Look("date", _own("DATE", *patterns.DATES), 5, unless=regex.compile(patterns.VERSION))


def _national_ids() -> Iterator[Look]:
    for name, words in _CLEAR_IDS.items():
        yield Look("national-id", _in_ascii(getattr(presidio, name)()), 4, _words(words))
    for name, words in _BARE_IDS.items():
        yield Look("national-id", _in_ascii(getattr(presidio, name)()), 7, _words(words), always_words=True)
    # Presidio's take small letters too: "at 10 20 30 a" has the shape of the British one. And a pattern of its
    # Indian one looks from each word to the end of the text.
    yield Look("national-id", _own("IN_PAN", patterns.INDIAN_PAN), 4)
    yield Look("national-id", _own("UK_NINO", patterns.UK_NINO), 6)
    yield Look("national-id", ChineseIdentityNumber(), 17)
    old = _own("CN_ID_15", patterns.CHINESE_ID_OF_1984)
    yield Look("national-id", old, 15, _words(("身份证",)), always_words=True)
    yield Look("national-id", _own("PASSPORT", *patterns.PASSPORTS), 6, _words(_PASSPORT_WORDS), always_words=True)


def _phones(regions: Sequence[str]) -> Iterator[Look]:
    for region in regions:
        if region not in phonenumbers.SUPPORTED_REGIONS:
            raise InputError(
                f"data.anonymize.phone_regions = {region!r}: it should be a country's two letters, such as 'US'"
            )
    yield Look("phone", Phones(regions), 7, _words(_PHONE_WORDS))


def _english() -> Iterator[Look]:
    yield Look("date", _own("DATE_EN", *patterns.ENGLISH_DATES), 1)
    yield Look("address", _own("ADDRESS_EN", *patterns.ENGLISH_ADDRESSES), 1)


def _chinese() -> Iterator[Look]:
    yield Look("date", _own("DATE_ZH", *patterns.CHINESE_DATES))
    yield Look("address", _own("ADDRESS_ZH", *patterns.CHINESE_ADDRESSES))
    yield Look("phone", _own("PHONE_ZH", patterns.CHINESE_MOBILE), 11)


class Phones(presidio.PhoneRecognizer):
    """Presidio's telephone numbers (Google's libphonenumber): valid, and grouped as their country does.

    Digits without a plus or a separator are as likely to number an order: they need a word.

    Args:
        regions: whose numbers are known without a country code.
    """

    def __init__(self, regions: Sequence[str]) -> None:
        strict_grouping = 2
        super().__init__(supported_regions=tuple(regions), leniency=strict_grouping)

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[Any]:
        """See the class.

        Raises:
            OverflowError: libphonenumber would give up before the end of the text, without a word.
        """
        if sum(map(str.isdigit, text)) > _MOST_TRIES:
            raise OverflowError
        found = super().analyze(text, entities, nlp_artifacts)
        for one in found:
            one.score = _WEAK if text[one.start : one.end].isdigit() else _CLEAR
        return list(found)


class ChineseIdentityNumber(PatternRecognizer):
    """The resident identity number: 18 characters, the last a check (GB 11643-1999, ISO 7064 MOD 11-2)."""

    def __init__(self) -> None:
        pattern = Pattern("CN_ID", patterns.CHINESE_ID, _WEAK)
        super().__init__("CN_ID", patterns=[pattern], global_regex_flags=regex.ASCII)

    def validate_result(self, pattern_text: str) -> bool:
        """Whether the last character follows from the others."""
        total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(pattern_text[:17]))
        return pattern_text[17].upper() == "10X98765432"[total % 11]


class _Addresses(presidio.IpRecognizer):
    """Presidio's IP addresses without those that hold no digit: `a::b` is a name in many programs."""

    def invalidate_result(self, pattern_text: str) -> bool:
        """Whether it is none."""
        return not any(map(str.isdigit, pattern_text)) or bool(super().invalidate_result(pattern_text))


def _own(name: str, *patterns: str) -> PatternRecognizer:
    made = [Pattern(name, one, _CLEAR) for one in patterns]
    return PatternRecognizer(name, patterns=made, global_regex_flags=regex.ASCII)


def _in_ascii(recognizer: Any) -> Any:
    """With words of ASCII: otherwise a number has no beginning where a Chinese character stands before it."""
    recognizer.global_regex_flags |= regex.ASCII
    return recognizer


def _copied(pattern: Pattern) -> Pattern:
    """Presidio compiles a pattern where it lies, and its own lists belong to all recognizers of a kind."""
    return Pattern(pattern.name, pattern.regex, pattern.score)


def _words(words: Sequence[str]) -> Any:
    """Any of some words, in any case; those of ASCII as whole words, also within a field's name."""
    if not words:
        return None
    parts = [rf"(?<![a-z]){regex.escape(one)}(?![a-z])" if one.isascii() else regex.escape(one) for one in words]
    return regex.compile("|".join(parts), regex.IGNORECASE)


def _is_whole(text: str, begin: int, end: int) -> bool:
    """Whether a match neither begins nor ends within a longer word or number of ASCII."""
    return not (_is_inside(text, begin) or _is_inside(text, end))


def _is_inside(text: str, place: int) -> bool:
    around = text[place - 1 : place + 1] if 0 < place < len(text) else ""
    return len(around) == 2 and around.isascii() and around.isalnum()
