"""Shapes of what names a person, as patterns for the `regex` library; ASCII where no other script is spelt out.

Every repetition has a bound, so that the time that a text takes grows with its length and not with its square.
"""

from __future__ import annotations

# Letters of an address may be accented, Greek or Cyrillic; Chinese ones stand right beside it.
_LETTER = r"A-Za-z0-9\u00C0-\u024F\u0370-\u052F"
_LABEL = rf"[{_LETTER}](?:[{_LETTER}-]{{0,61}}[{_LETTER}])?"
# Any domain, `clinic.local` too: no list of suffixes is asked.
EMAIL = (
    rf"(?<![{_LETTER}._%+-])[{_LETTER}_%+](?:[{_LETTER}._%+'-]{{0,62}}[{_LETTER}_%+-])?@"
    rf"(?:{_LABEL}\.){{1,8}}[A-Za-z\u00C0-\u024F\u0370-\u052F][{_LETTER}-]{{0,61}}[{_LETTER}]"
)

_HAN = r"\u3400-\u9FFF"
_URL_REST = rf"(?:[^\s<>\"'{_HAN}]{{0,2000}}[^\s<>\"'{_HAN}.,;:!?)\]}}])?"
_SUFFIX = r"(?:com|org|net|edu|gov|mil|info|biz|cn|uk|eu|jp)"
_BARE = r"(?<![A-Za-z0-9@._/-])(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}"
URLS = (
    rf"(?i:(?:https?|ftp)://)[^\s<>\"'{_HAN}]{_URL_REST}",
    rf"(?<![A-Za-z0-9@._-])(?i:www\.)(?:{_LABEL}\.){{1,8}}[A-Za-z]{{2,24}}(?![A-Za-z0-9-])(?:[:/?#]{_URL_REST})?",
    # Without either, only below the usual suffixes and in small letters: `ASP.NET` and `good.It` are none.
    rf"{_BARE}{_SUFFIX}(?![A-Za-z0-9@-]|\.[A-Za-z0-9])(?:[:/?#]{_URL_REST})?",
)

# A number with dots after one of these is a version.
VERSION = r"(?i:(?<![a-z])v|version|release|ver\.?|版本号?|版)[ :=]{0,3}$"

# Visa, Mastercard, Discover, JCB, UnionPay: four groups of four, UnionPay and Maestro up to 19 digits; American
# Express and Diners Club.
_CARD_BEGIN = r"(?<![A-Za-z0-9.-])(?:4\d{3}|5[0-8]\d{2}|2[2-7]\d{2}|6\d{3}|35\d{2})"
_CARD_END = r"(?![A-Za-z0-9]|[.-]\d)"
CARDS = (
    rf"{_CARD_BEGIN}(?:[ -]?\d{{4}}){{3}}{_CARD_END}",
    rf"{_CARD_BEGIN}(?:[ -]?\d{{4}}){{3}}[ -]?\d{{1,3}}{_CARD_END}",
    rf"(?<![A-Za-z0-9.-])3[47]\d{{2}}[ -]?\d{{6}}[ -]?\d{{5}}{_CARD_END}",
    rf"(?<![A-Za-z0-9.-])3[0689]\d{{2}}[ -]?\d{{6}}[ -]?\d{{4}}{_CARD_END}",
)

UK_NINO = r"\b(?!BG|GB|NK|KN|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]\b"
# The fourth letter says who holds it.
INDIAN_PAN = r"\b[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]\b"
# Region (six digits), date of birth, a number, the check character. Before 1999: a year of two digits, no check.
_BIRTH = r"(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
CHINESE_ID = rf"(?<![A-Za-z0-9])[1-8]\d{{5}}(?:18|19|20)\d{{2}}{_BIRTH}\d{{3}}[\dXx](?![A-Za-z0-9])"
CHINESE_ID_OF_1984 = rf"(?<![A-Za-z0-9])[1-8]\d{{5}}\d{{2}}{_BIRTH}\d{{3}}(?![A-Za-z0-9])"
PASSPORTS = (r"\b[A-Za-z]{1,2}\d{6,8}\b", r"\b\d{9}\b")

CHINESE_MOBILE = r"(?<![A-Za-z0-9_.-])(?:(?:\+|00)?86[ -]?)?1[3-9]\d(?:[ -]?\d{4}){2}(?![A-Za-z0-9_]|[.-]\d)"

# With a day and a month, or a month and a year: a year alone names nobody.
DATES = (r"(?<![\d.])(?:0?[1-9]|[12]\d|3[01])\.(?:0?[1-9]|1[0-2])\.(?:18|19|20)\d{2}(?!\d|\.\d)",)
_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.?)"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?"
_YEAR = r"(?:1[5-9]|20)\d{2}"
ENGLISH_DATES = (
    rf"\b{_MONTH} {_DAY}(?:,? {_YEAR})?\b(?!\.\d|%)",
    rf"(?<![\d.])\b{_DAY}(?: of)? {_MONTH}(?:,? {_YEAR})?(?![A-Za-z0-9])",
    rf"\b{_MONTH},? {_YEAR}\b",
    rf"(?<![\d.-])(?:0?[1-9]|[12]\d|3[01])-(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)-{_YEAR}\b",
)

_NUMERAL = r"〇零一二三四五六七八九十"
CHINESE_DATES = (
    r"(?<!\d)(?:\d{4}|\d{2})\s?年\s?(?:0?[1-9]|1[0-2])\s?月(?:\s?(?:0?[1-9]|[12]\d|3[01])\s?[日号])?",
    r"(?<!\d)(?:0?[1-9]|1[0-2])\s?月\s?(?:0?[1-9]|[12]\d|3[01])\s?[日号]",
    rf"[〇零一二三四五六七八九]{{4}}年[{_NUMERAL}]{{1,2}}月(?:[{_NUMERAL}]{{1,3}}[日号])?",
    rf"(?<![{_NUMERAL}])[一二三四五六七八九十]{{1,2}}月[{_NUMERAL}]{{1,3}}[日号]",
)

_SIDE = r"(?:(?:N|S|E|W|NE|NW|SE|SW|North|South|East|West)\.? )"
# Words of headlines: "7 Steps To Drive" is no address.
_WORD = (
    r"(?!(?:To|And|Or|For|Your|My|In|On|With|That|How|Why|You|Best|Most|Top|Ways|Steps|Things|AM|PM)\b)"
    r"(?:[A-Z][a-z]+(?:['\u2019][a-z]+)?|[A-Z]{2,12}|\d{1,3}(?:st|nd|rd|th)|St\.|O'[A-Z][a-z]+)"
)
_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Square|Sq|Terrace|Place|Pl|Way"
    r"|Parkway|Pkwy|Highway|Hwy|Close|Crescent|Alley|Mews)\b\.?"
)
_FLAT = r"(?:,? (?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|Room|Rm)\.? ?#?[A-Za-z0-9]{1,6}|,? #\d{1,5})"
_TOWN = r"(?:,? [A-Z][a-z]+(?: [A-Z][a-z]+){0,2})"
_POSTCODE = r"(?:,? [A-Z]{2},? \d{5}(?:-\d{4})?|,? [A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2})\b"
_HOUSE = r"(?<![\w.,/$€£%#-])\d{1,5}[A-Za-z]?(?:-\d{1,4})?"
_AREA = r"(?: (?:N|S|E|W|NE|NW|SE|SW)\b)"
ENGLISH_ADDRESSES = (
    rf"{_HOUSE} {_SIDE}?(?:{_WORD}[ -]){{1,4}}{_STREET}{_AREA}?{_FLAT}?(?:{_TOWN}?{_POSTCODE})?",
    r"\bP\.? ?O\.? ?Box \d{1,6}\b",
)

# A place's name does not hold these, and does not begin with those: they join it to the sentence before it.
_NEVER = "在到是的了住给往寄您我你他她们址"
_FIRST = _NEVER + "于从去来至由向和与及为,:;"


def _named(least: int, most: int, ends: str) -> str:
    name = rf"(?![{_FIRST}])[{_HAN}](?:(?![{_NEVER}])[{_HAN}]){{{least - 1},{most - 1}}}?"
    return rf"(?:{name}(?:{ends}))"


_COUNT = rf"(?:\d{{1,5}}|[{_NUMERAL}百]{{1,6}})"
_ROAD = r"路|街|大道|巷|弄|胡同|道|里"
_DOOR = rf"{_COUNT}(?:[-之]\d{{1,4}})?\s?(?:号院|号楼|号)"
_INSIDE = rf"(?:\s?(?:[A-Za-z]|{_COUNT})(?:-\d{{1,4}}){{0,2}}\s?(?:号楼|栋|幢|座|单元|楼|层|室|号|房))"
_REGION = (
    _named(2, 7, "省|自治区|特别行政区")
    + "?"
    + _named(2, 5, "市|自治州|地区|盟")
    + "?"
    + _named(1, 6, "区|县|旗|市")
    + "?"
    + _named(1, 5, "镇|乡|街道")
    + "?"
)
CHINESE_ADDRESSES = (
    rf"{_REGION}{_named(1, 8, _ROAD)}(?:[东西南北中]?[路段])?\s?{_DOOR}{_INSIDE}{{0,4}}",
    rf"{_REGION}{_named(1, 6, '村|屯|庄')}\s?{_COUNT}\s?(?:组|队|号)(?:{_COUNT}号)?",
)
