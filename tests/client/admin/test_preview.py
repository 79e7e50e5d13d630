"""Anonymization in the organization's tools: vault start, check, preview, organization.toml."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import client.vault.records.recognizers
from client.vault.policy.organization import Anonymize, Organization
from client.vault.records.recognizers import Look
from client.vault.start import serve_vault
from common.errors import InputError
from common.plan.plan import Plan
from common.settings import template
from simulations.entropy import SeededEntropy
from tests.client.check.checking import change, problems, run_checks, users, write_plan, write_records
from tests.client.vault.records.anonymizing import CANARY, Broken
from tests.client.vaults import write_organization
from tests.conftest import Cli, MakePlan


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.vault.records.recognizers, "looks", lambda settings: [Look("email", Broken())])


@pytest.fixture
def path(tmp_path: Path, tiny_base: Path) -> Path:
    path = write_organization(tmp_path / "st-mary", tiny_base)
    write_records(path, [{"text": f"Bird {n}: {CANARY}, 13800138000"} for n in range(30)])
    return change(path, data={"anonymize": {}})


def test_a_field_that_no_record_has_stops_a_vault_before_it_answers(path: Path) -> None:
    change(path, data={"anonymize": {"fields": ["txet"]}})
    with pytest.raises(InputError, match=r"^data\.anonymize\.fields: none of the 30 records has 'txet'"):
        serve_vault(Organization.read(path), SeededEntropy(7), pytest.fail)


def test_check_says_whether_texts_are_anonymized(path: Path, make_plan: MakePlan) -> None:
    findings = run_checks(path, make_plan())
    assert problems(findings) == {}
    assert findings["records", "anonymization"].text.startswith(
        "on, in every text that a plan reads: email, phone, "
    )
    change(path, data={"anonymize": {"fields": ["text"], "entities": ["iban"]}})
    assert run_checks(path)["records", "anonymization"].text == "on, in the fields text: iban"


def test_check_says_where_they_are_not(tmp_path: Path, tiny_base: Path) -> None:
    findings = run_checks(write_organization(tmp_path / "st-mary", tiny_base))
    assert findings["records", "anonymization"].text.startswith("off: ")


@pytest.mark.usefixtures("broken")
def test_check_counts_what_is_unusable_after_anonymization_and_names_its_line(
    path: Path, make_plan: MakePlan
) -> None:
    write_records(path, [{"text": f"record {n}" + " 4711" * (n == 6)} for n in range(30)])
    findings = run_checks(path, make_plan())
    assert problems(findings) == {"records examples": "warning"}
    assert "1 of 30 records cannot be trained on" in findings["records", "examples"].text
    assert "1: it cannot be anonymized (line 7)" in findings["records", "examples"].text


def test_check_looks_at_users_as_the_vault_does(path: Path, make_plan: MakePlan) -> None:
    users(path, [{"text": f"mail {n % 4}@example.com", "patient": f"p{n % 4}@example.com"} for n in range(12)])
    findings = run_checks(path)
    assert findings["records", "users"].text.startswith("12 records of 4 users")


@pytest.fixture
def cli(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run `sotto client anonymize`."""
    monkeypatch.setenv("COLUMNS", "200")
    return partial(cli, "client", "anonymize")


def counts(output: str) -> dict[str, tuple[int, int]]:
    """Kind → number of replacements, number of records; read from the printed table."""
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")
    ]
    return {kind: (int(count), int(records)) for kind, _, count, records in rows if int(count)}


def test_preview_counts_and_shows_what_is_replaced_and_writes_nothing(path: Path, cli: Cli) -> None:
    write_records(
        path,
        [
            {"text": f"mail {CANARY} or li@example.com [bold]now[/bold]", "sure": True},
            {"text": "nothing"},
            {"text": "\x1b[31m电话13800138000", "phone": 13912345678},
        ],
    )
    before = sorted(path.parent.rglob("*"))
    code, output, _ = cli("--preview", path, "--examples", 1)
    assert code == 0
    assert counts(output) == {"email": (2, 1), "phone": (2, 1)}
    assert f"line 1, text: mail [{CANARY} → <EMAIL>] or li@example.com [bold]now" in output
    assert "line 3, text: \N{REPLACEMENT CHARACTER}[31m电话[13800138000 → <PHONE>]" in output
    assert "13912345678" not in output  # one example of each kind
    assert "st-mary: 2 of 3 records would be changed; " in output
    assert sorted(path.parent.rglob("*")) == before


def test_preview_of_a_plan_looks_at_what_it_reads(path: Path, cli: Cli, make_plan: MakePlan) -> None:
    write_records(path, [{"letter": CANARY, "text": "old", "phone": 13912345678}])
    change(path, data={"fields": {"text": "letter"}})
    plan = write_plan(path.parent, make_plan())
    assert counts(cli("--preview", path, "--plan", plan)[1]) == {"email": (1, 1)}
    assert counts(cli("--preview", path)[1]) == {"email": (1, 1), "phone": (1, 1)}


@pytest.mark.usefixtures("broken")
def test_preview_counts_what_fails(path: Path, cli: Cli) -> None:
    write_records(path, [{"text": "4711"}, {"text": "fine"}])
    code, output, _ = cli("--preview", path)
    assert code == 0
    assert "0 of 2 records would be changed; 1 cannot be anonymized and contribute nothing" in output


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"entities": ["mail"]}, "data.anonymize.entities.0 = 'mail': it should be 'email', 'phone', 'card'"),
        ({"entities": []}, "data.anonymize.entities = []"),
        ({"languages": ["de"]}, "data.anonymize.languages.0 = 'de': it should be 'en' or 'zh'"),
        ({"field": ["text"]}, "[data.anonymize] has no key 'field'; did you mean 'fields'?"),
        ({"fields": ["txet"]}, "data.anonymize.fields: none of the 30 records has 'txet'; they have: text"),
        ({"phone_regions": ["XX"]}, "data.anonymize.phone_regions = 'XX'"),
    ],
)
def test_bad_input_is_one_line(path: Path, cli: Cli, keys: dict[str, Any], message: str) -> None:
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    path.write_text(path.read_text().replace("[data.anonymize]\n", f"[data.anonymize]\n{lines}"))
    code, output, errors = cli("--preview", path)
    assert (code, output) == (2, "")
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_what_is_not_asked_for_is_said(tmp_path: Path, tiny_base: Path, cli: Cli) -> None:
    plain = write_organization(tmp_path / "plain", tiny_base)
    assert cli("--preview", plain)[::2] == (
        2,
        "error: data.anonymize is missing: organization.toml needs a [data.anonymize] table, which may be empty\n",
    )
    assert cli(plain)[0] == 2
    assert "--preview is required" in cli(plain)[2]


def test_the_file_to_start_from_can_be_read_with_the_table_switched_on(tmp_path: Path) -> None:
    path = tmp_path / "organization.toml"
    path.write_text(template(Organization))
    assert Organization.read(path).data.anonymize is None
    keys = ("[data.anonymize]", "entities =", "languages =", "phone_regions =", "fields = [")
    lines = template(Organization).splitlines()
    on = [line.removeprefix("# ") if line.removeprefix("# ").startswith(keys) else line for line in lines]
    path.write_text("\n".join(on))
    assert Organization.read(path).data.anonymize == Anonymize(fields=["letter"])


def test_a_plan_knows_nothing_of_it() -> None:
    assert "anonymize" not in template(Plan)
