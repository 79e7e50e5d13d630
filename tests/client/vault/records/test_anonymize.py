"""What is found in texts and what is not; every expectation was written by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from presidio_analyzer import Pattern, PatternRecognizer

import client.vault.records.recognizers
from client.vault.policy.organization import Anonymize
from client.vault.records.anonymize import Anonymizer
from client.vault.records.recognizers import Look
from common.errors import InputError
from tests.conftest import ROOT

ALL = Anonymizer(Anonymize())

FOUND = [
    ("Write to li.wei@example.com, please.", "Write to <EMAIL>, please."),
    ("ward3@clinic.local and JÜRGEN@müller.de", "<EMAIL> and <EMAIL>"),
    ("call (415) 555-2671 or 415.555.2671", "call <PHONE> or <PHONE>"),
    ("+44 20 7946 0018, +49 30 901820", "<PHONE>, <PHONE>"),
    ("My phone is 4155552671.", "My phone is <PHONE>."),
    ("card 4111 1111 1111 1111", "card <CARD>"),
    ("5500-0055-5555-5559 or 378282246310005", "<CARD> or <CARD>"),
    ("to DE89370400440532013000 in 2 days", "to <IBAN> in 2 days"),
    ("GB82 WEST 1234 5698 7654 32", "<IBAN>"),
    ("SSN: 536-90-4399", "SSN: <NATIONAL_ID>"),
    ("her SSN is 536904399", "her SSN is <NATIONAL_ID>"),
    ("NHS number 943 476 5919", "NHS number <NATIONAL_ID>"),
    ("AB 12 34 56 C", "<NATIONAL_ID>"),
    ("DNI 12345678Z, codice RSSMRA85T10A562S", "DNI <NATIONAL_ID>, codice <NATIONAL_ID>"),
    ("PESEL 44051401359; hetu 131052-308T", "PESEL <NATIONAL_ID>; hetu <NATIONAL_ID>"),
    ("passport no. E12345678", "passport no. <NATIONAL_ID>"),
    ("born 1990-02-03, seen 3/5/2024", "born <DATE>, seen <DATE>"),
    ("March 5, 2024; 5th of March; 03.05.2024", "<DATE>; <DATE>; <DATE>"),
    ("in May 1967, on 05-Mar-2024", "in <DATE>, on <DATE>"),
    ("see https://example.com/a?b=c, or www.foo.org/x.", "see <URL>, or <URL>."),
    ("at 192.168.1.17 or fe80::1ff:fe23:4567:890a", "at <IP_ADDRESS> or <IP_ADDRESS>"),
    ("I live at 221B Baker Street, London.", "I live at <ADDRESS>, London."),
    ("1600 Pennsylvania Avenue NW, Washington, DC 20500", "<ADDRESS>"),
    ("Send it to P.O. Box 123.", "Send it to <ADDRESS>."),
    ("邮箱zhang_san@163.com，请联系", "邮箱<EMAIL>，请联系"),
    ("电话13800138000。", "电话<PHONE>。"),
    ("手机：１３８００１３８０００，座机010-88886666", "手机：<PHONE>，座机<PHONE>"),
    ("卡号6222021234567890128的账户", "卡号<CARD>的账户"),
    ("身份证号11010519491231002X，", "身份证号<NATIONAL_ID>，"),
    ("身份证号码440524188001010014", "身份证号码<NATIONAL_ID>"),
    ("身份证110105491231002，护照号E12345678", "身份证<NATIONAL_ID>，护照号<NATIONAL_ID>"),
    ("生于2024年3月5日，复诊3月15号", "生于<DATE>，复诊<DATE>"),
    ("二〇二四年三月五日入院", "<DATE>入院"),
    ("我住在北京市朝阳区建国路88号院2号楼301室，谢谢", "我住在<ADDRESS>，谢谢"),
    ("地址：上海市浦东新区世纪大道100号", "地址：<ADDRESS>"),
    ("快递寄到人民路5号。", "快递寄到<ADDRESS>。"),
    ("ｌｉ＠ｅｘａｍｐｌｅ．ｃｏｍ，６２２２０２１２３４５６７８９０１２８", "<EMAIL>，<CARD>"),
    ("SSN 536\N{EN DASH}90\N{EN DASH}4399, 4111\N{NO-BREAK SPACE}1111 1111 1111", "SSN <NATIONAL_ID>, <CARD>"),
    ("生于1990-02-03在线，地址是192.168.1.17的", "生于<DATE>在线，地址是<IP_ADDRESS>的"),
    ("官网https://a.cn/登录", "官网<URL>登录"),
]

KEPT = [
    "",
    "An ordinary sentence, with a comma; nobody is named here.",
    "一句普通的话，没有什么可以替换的。",
    "order 4155552671, order no. 100200300, ticket #88213",
    "订单号20240305001，共3件，第2路公交车",
    "it costs $1,234.56 or 1.234,56 €, 15 % off; 价格128.5元",
    "in 2024, between 1998 and 2006; 2024年",
    "version 3.1.24, v1.2.3, Python 3.11.2, release 1.2.3.4, 版本2.0.0.1",
    "4111 1111 1111 1112",
    "110105194912310021 and 11010519491231003X",
    "item 9434765919, lot 44051401359, part E12345678",
    "ISBN 978-3-16-148410-0, 1700000000000, 13:45:20, pages 12-14",
    "ASP.NET, node.js, e.g. this. It is good.It was; std::a a::b in 3 lines",
    "PESEL 4405140135988",
    "@handle, a @ b, 7 Steps To Drive, at 10 20 30 a",
    "DE89370400440532013001",
]


@pytest.mark.parametrize(("text", "expected"), FOUND)
def test_what_names_a_person_gives_way_to_its_token(text: str, expected: str) -> None:
    assert ALL.text(text).text == expected


@pytest.mark.parametrize("text", KEPT)
def test_what_names_nobody_stays(text: str) -> None:
    assert ALL.text(text).text == text


def test_the_name_of_a_field_is_a_word_beside_what_it_holds() -> None:
    assert ALL.text("536904399", "patient_ssn").text == "<NATIONAL_ID>"
    assert ALL.text("536904399", "order").text == "536904399"


def test_a_word_counts_when_it_is_near() -> None:
    assert ALL.text("SSN" + " and so on" * 3 + ": 536904399").text.endswith("<NATIONAL_ID>")
    assert ALL.text("SSN" + " and so on" * 9 + ": 536904399").text.endswith("536904399")


def test_a_token_that_brings_a_word_near_changes_nothing_the_second_time() -> None:
    made = ALL.text("SSN of the-longest-address-of-all@department.example.com: 536904399")
    assert made.text == "SSN of <EMAIL>: <NATIONAL_ID>"
    assert len(made.passes) == 2


def test_only_what_is_asked_for_is_replaced() -> None:
    text = "li@example.com, 13800138000, 3月5日, March 5, 2024, 020 7946 0018"
    assert Anonymizer(Anonymize(entities=["email"])).text(text).text == text.replace("li@example.com", "<EMAIL>")
    english = Anonymizer(Anonymize(languages=["en"], phone_regions=["GB"])).text(text).text
    assert english == "<EMAIL>, 13800138000, 3月5日, <DATE>, <PHONE>"
    chinese = Anonymizer(Anonymize(languages=["zh"], phone_regions=["US"])).text(text).text
    assert chinese == "<EMAIL>, <PHONE>, <DATE>, March 5, 2024, 020 7946 0018"


def test_an_unknown_region_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^data\.anonymize\.phone_regions = 'UK': it should be a country's two"):
        Anonymizer(Anonymize(phone_regions=["US", "UK"]))


# Overlaps


def looking_for(monkeypatch: pytest.MonkeyPatch, *rules: tuple[str, str, float]) -> Anonymizer:
    """An anonymizer with other recognizers: (kind, pattern, score)."""
    made = [
        Look(kind, PatternRecognizer(kind, patterns=[Pattern(kind, pattern, score)]))  # type: ignore[arg-type]
        for kind, pattern, score in rules
    ]
    monkeypatch.setattr(client.vault.records.recognizers, "looks", lambda settings: made)
    return Anonymizer(Anonymize())


def test_an_address_within_another_is_part_of_it() -> None:
    assert ALL.text("https://a.org/u?mail=li@example.com&ip=1.2.3.4 x").text == "<URL> x"


def test_the_longest_gives_its_name_and_nothing_of_the_others_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    made = looking_for(monkeypatch, ("date", "aaa bbb", 0.6), ("card", "bbb cc", 1.0), ("url", "dd", 0.9))
    assert made.text("x aaa bbb cc dd").text == "x <DATE> <URL>"


def test_a_chain_of_overlaps_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = looking_for(monkeypatch, ("date", "a b", 0.6), ("card", "b ccc d", 0.6), ("url", "d e", 0.6))
    assert made.text("a b ccc d e").text == "<CARD>"


def test_of_two_as_long_the_surer_gives_its_name_whoever_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [("date", "aaa", 0.6), ("card", "aaa", 1.0), ("address", "aaa", 0.7)]
    assert looking_for(monkeypatch, *rules).text("aaa").text == "<CARD>"
    assert looking_for(monkeypatch, *rules[::-1]).text("aaa").text == "<CARD>"


# Properties

PIECES = st.one_of(
    st.sampled_from([text for text, _ in FOUND] + KEPT),
    st.text(max_size=12),
    st.text("0123456789 -./@:+xX年月日号路", max_size=20),
)
TEXTS = st.lists(PIECES, max_size=6).map(" ".join) | st.lists(PIECES, max_size=6).map("".join)


@settings(deadline=None, max_examples=400)
@given(TEXTS)
def test_a_second_time_changes_nothing(text: str) -> None:
    once = ALL.text(text).text
    assert ALL.text(once).text == once


@settings(deadline=None, max_examples=200)
@given(TEXTS, TEXTS)
def test_one_text_leaves_no_trace_in_the_next(first: str, text: str) -> None:
    alone = ALL.text(text)
    ALL.text(first)
    assert ALL.text(text) == alone


@pytest.mark.parametrize("text", ["li@example.com", "SSN 536904399", "电话13800138000", "May 1967"])
def test_a_fresh_anonymizer_finds_what_a_used_one_finds(text: str) -> None:
    assert Anonymizer(Anonymize()).text(text) == ALL.text(text)


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(exclude_characters="@.", exclude_categories=["N", "Cs"])))
def test_without_digits_and_dots_and_at_signs_only_links_and_chinese_numerals_are_found(text: str) -> None:
    plain = regex.sub(r"[〇零一二三四五六七八九十百]|://|[\uFF00-\uFF5E]", "", text)
    assert ALL.text(plain).text == plain


WORDS = st.lists(
    st.sampled_from(["please", "write", "to", "about", "请", "联系", "，", "(", ")", ";"]), max_size=5
)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=12)
EMAILS = st.builds(
    "{}@{}.{}".format,
    NAMES,
    NAMES.map(lambda name: name.replace("_", "x")),
    st.sampled_from(["com", "de", "cn", "local"]),
)


def with_check_digit(digits: str) -> str:
    """Luhn's, by the book: from the right, every second digit is doubled, and 9 taken off above 9."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 if place % 2 else 2)
        total += value - 9 if value > 9 else value
    return digits + str(-total % 10)


CARDS = st.from_regex(r"\A(?:4\d{14}|5[1-5]\d{13}|62\d{13}|62\d{16})\Z").filter(str.isascii).map(with_check_digit)


@settings(deadline=None, max_examples=300)
@given(WORDS, EMAILS | CARDS, WORDS)
def test_an_address_or_a_card_never_stays(before: list[str], private: str, after: list[str]) -> None:
    assert private not in ALL.text(" ".join([*before, private, *after])).text
    assert private not in ALL.text("邮箱或卡号：" + private + "，谢谢").text


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from([*FOUND, ("nothing", "nothing"), ("好", "好")]), min_size=1, max_size=5), st.data()
)
def test_what_is_moved_stands_where_it_is_said_to_stand(parts: list[tuple[str, str]], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(parts) - 1))
    text = " | ".join(part for part, _ in parts)
    begin = len(" | ".join([part for part, _ in parts[:at]] + [""]))
    made = ALL.text(text)
    left, right = made.moved(begin, begin + len(parts[at][0]))
    assert made.text[left:right] == made.text.split(" | ")[at]


# What it leans on


def run(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home), "XDG_CACHE_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


def test_it_asks_no_network_and_writes_no_cache(tmp_path: Path) -> None:
    code = """
import socket
def refuse(*_, **__):
    raise AssertionError("a socket")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
from client.vault.records.anonymize import Anonymizer
from client.vault.policy.organization import Anonymize
texts = ["li@example.com", "www.example.co.uk/a", "https://example.com", "+1 415 555 2671"]
print([Anonymizer(Anonymize()).text(text).text for text in texts])
"""
    ended = run(code, tmp_path)
    assert ended.stdout == "['<EMAIL>', '<URL>', '<URL>', '<PHONE>']\n", ended.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_who_does_not_ask_for_it_does_not_pay_for_it(tmp_path: Path) -> None:
    modules = "sotto, client.vault.vault, client.vault.start, client.admin.preview"
    code = f"import sys, {modules}; print('presidio_analyzer' in sys.modules)"
    assert run(code, tmp_path).stdout == "False\n"


def test_what_is_not_installed_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "client.vault.records.recognizers")
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(InputError) as caught:
        Anonymizer(Anonymize())
    assert str(caught.value) == (
        "data.anonymize needs presidio_analyzer, which is not installed; in Sotto's folder: python3 "
        f"locks/install.py {sys.prefix} anonymize --no-project"
    )
