"""`sotto client check`: a healthy organization, each mistake that an administrator may make, nothing touched."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from transformers import AutoTokenizer

import sotto
from client.approval import Approvals
from client.check import GROUPS, check
from client.checks import Check
from client.checks.device import tokens_of_a_step, would_disturb
from client.checks.ledger import check_ledger
from client.ledger import Ledger
from client.organization import Organization
from client.private import PerExampleGradients
from client.remote import RemoteVault
from client.reservation import Reservation
from common.lifetime import Cap
from common.lock import exclusive
from common.mechanism import Mechanism
from common.plan import Plan
from common.settings import load
from common.signing import StatementKey, key_fingerprint
from common.tasks import Example
from tests.client.vaults import LONG, VaultProcess, open_vault, request_for, wait_until, write_organization
from tests.conftest import ROOT, MakePlan

Cli = Callable[..., tuple[int, str, str]]
Found = dict[tuple[str, str], Check]


@pytest.fixture
def path(tmp_path: Path, tiny_base: Path) -> Path:
    return write_organization(tmp_path / "st-mary", tiny_base)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """`sotto client check` in this process: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sotto", "client", "check", *map(str, arguments)])
        code = 0
        try:
            sotto.main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


def change(path: Path, **sections: dict[str, Any]) -> Path:
    """Other keys in an organization's file: change(path, data={"public_size": 30})."""
    values = load(path, Organization).model_dump(exclude_none=True)
    for name, section in sections.items():
        values[name] |= section
    path.write_text(tomli_w.dumps(values))
    return path


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    (path.parent / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def write_plan(folder: Path, plan: Plan) -> Path:
    file = folder / "plan.toml"
    file.write_text(plan.to_toml())
    return file


def look(path: Path, plan: Plan | None = None) -> Found:
    found = check(Organization.read(path), plan)
    assert len({(one.group, one.name) for one in found}) == len(found)
    assert all("\n" not in one.text for one in found)
    return {(one.group, one.name): one for one in found}


def not_ok(found: Found) -> dict[str, str]:
    """What is not ok, as "group name" → state."""
    return {" ".join(key): one.state for key, one in found.items() if one.state != "ok"}


def snapshot(*folders: Path) -> dict[Path, tuple[int, int, bytes]]:
    """Every file and folder with its mode, its time and its bytes."""
    return {
        file: (file.lstat().st_mode, file.lstat().st_mtime_ns, file.read_bytes() if file.is_file() else b"")
        for folder in folders
        for file in [folder, *folder.rglob("*")]
    }


# All is well


def test_a_healthy_organization_has_nothing_to_look_at(path: Path, make_plan: MakePlan, cli: Cli) -> None:
    plan = write_plan(path.parent, make_plan())
    open_vault(path).train(request_for(make_plan()))
    code, printed, errors = cli(path, "--plan", plan, "--json")
    assert (code, errors) == (0, "")
    values = json.loads(printed)
    assert list(values) == ["organization", "checks", "ok"]
    assert (values["organization"], values["ok"]) == ("st-mary", True)
    assert all(list(one) == ["group", "name", "state", "text"] for one in values["checks"])
    assert {one["state"] for one in values["checks"]} == {"ok"}
    groups = [one["group"] for one in values["checks"]]
    assert list(dict.fromkeys(groups)) == list(GROUPS)
    assert groups == sorted(groups, key=GROUPS.index)
    code, lines, errors = cli(path, "--plan", plan)
    assert (code, errors) == (0, "")
    *lines, last = lines.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", group] for group in groups]
    assert last == f"st-mary: nothing wrong, 0 to look at, {len(groups)} looked at"


def test_it_says_which_model_which_key_and_what_is_left(path: Path, tiny_base: Path, make_plan: MakePlan) -> None:
    plan = make_plan()
    request = request_for(plan)
    open_vault(path).train(request)
    found = look(path, plan)
    # Two layers of 32 wide: four attention matrices, three of 48, two norms; the embedding, tied, and a last norm.
    vocabulary = len(AutoTokenizer.from_pretrained(tiny_base))
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
    model = found["model", str(tiny_base)].text
    assert f"{vocabulary * 32 + 2 * layer + 32:,} parameters, stored as float32" in model
    assert f"fingerprint as float32: {request.fingerprint[:12]}" in model
    public = StatementKey.read(path.parent / "keys" / "statement.key").public
    assert key_fingerprint(public) in found["ledger", "statement key"].text
    assert "sound: 3 chained entries, 1 runs" in found["ledger", "ledger"].text
    assert "spent 0, reserved 7.9" in found["ledger", "budget"].text
    assert "4 steps at rate 0.2 with noise σ = " in found["plan", "cost"].text


def test_before_the_vault_ever_started_there_is_no_ledger_and_that_is_well(path: Path) -> None:
    found = look(path)
    assert not_ok(found) == {}
    assert "the vault makes it" in found["ledger", "ledger"].text
    assert ("ledger", "budget") not in found


def test_nothing_on_disk_changes(path: Path, tiny_base: Path, make_plan: MakePlan, cli: Cli) -> None:
    plan = write_plan(path.parent, make_plan())
    for _ in range(2):  # without a ledger, and with one
        before = snapshot(path.parent, tiny_base)
        assert cli(path, "--plan", plan)[0] == 0
        assert snapshot(path.parent, tiny_base) == before
        open_vault(path).train(request_for(make_plan()))


def test_a_vault_that_trains_meanwhile_is_not_disturbed(path: Path, make_plan: MakePlan) -> None:
    plan = make_plan(training={"rounds": 1, "local_steps": 60})
    with (
        VaultProcess(path).wait_ready() as vault,
        ThreadPoolExecutor(1) as caller,
        RemoteVault(path.parent / "vault.sock", LONG, LONG) as asked,
    ):
        answer = caller.submit(asked.train, request_for(plan))
        wait_until(lambda: ", 1 runs," in ledger_line(path), "the reservation")
        assert not_ok(look(path, make_plan(training={"rounds": 1}))) == {}
        assert answer.result(LONG).update
        assert vault.process.poll() is None
        assert vault.errors.read_text() == ""


def ledger_line(path: Path) -> str:
    """What is found of the ledger."""
    return next(one.text for one in check_ledger(Organization.read(path)) if one.name == "ledger")


def test_a_vault_that_has_begun_to_write_is_not_waited_for(path: Path, make_plan: MakePlan) -> None:
    reserve(path, 1.0)
    ledger = ledger_of(path)
    with ledger._transaction():
        ledger._chain.append({"kind": "nothing yet"})
        assert not_ok(look(path, make_plan())) == {}


# Records


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file"),
        ("", "holds no records"),
        ('{"text": "a"}\n' * 6 + '{"text": "b"\n' + '{"text": "a"}\n', "line 7 is not JSON"),
        ('{"text": "a"}\n["a"]\n', "line 2 is a list"),
    ],
)
def test_records_that_cannot_be_read_are_wrong_and_all_else_is_still_looked_at(
    path: Path, make_plan: MakePlan, content: str | None, said: str
) -> None:
    (path.parent / "records.jsonl").unlink()
    if content is not None:
        (path.parent / "records.jsonl").write_text(content)
    found = look(path, make_plan())
    assert not_ok(found) == {"records file": "wrong"}
    assert said in found["records", "file"].text
    assert {group for group, _ in found} == set(GROUPS)


def test_lengths_are_those_of_the_tokenizer_before_they_are_cut(
    path: Path, tiny_base: Path, make_plan: MakePlan
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    texts = ["parcel " * count for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 60)]
    write_records(path, [{"text": text} for text in texts])
    lengths = sorted(len(tokenizer(text.strip(), add_special_tokens=False)["input_ids"]) + 2 for text in texts)
    assert lengths[-1] > 32 >= lengths[-2]
    change(path, data={"public_size": 12})
    found = look(path, make_plan())
    assert found["records", "lengths"].text == (
        f"a record has {lengths[5]} tokens (median), {lengths[-1]} at most; "
        "1 of 11 are cut at the plan's max_length = 32"
    )
    assert not_ok(found) == {}
    write_records(path, [{"text": text} for text in texts[-3:] * 4])
    assert not_ok(look(path, make_plan(task={"max_length": 8}))) == {
        "records lengths": "warning",
        "records public size": "warning",
    }


def test_a_field_that_no_record_has_is_wrong_and_the_near_one_is_named(path: Path, make_plan: MakePlan) -> None:
    found = look(path, make_plan(task={"template": "{txt}"}))
    assert not_ok(found) == {"records examples": "wrong"}
    text = found["records", "examples"].text
    assert "no record can be trained on" in text
    assert "30 have no 'txt'" in text
    assert "did you mean 'text'?" in text


def test_records_that_give_nothing_are_counted(path: Path, make_plan: MakePlan) -> None:
    write_records(path, [{"text": f"parcel {n}"} for n in range(28)] + [{"text": ""}, {"other": "x"}])
    found = look(path, make_plan())
    assert not_ok(found) == {"records examples": "warning"}
    assert found["records", "examples"].text.startswith("2 of 30 records give nothing to train on")


@pytest.mark.parametrize(
    ("size", "state", "said"),
    [
        (30, "warning", "is the true number of records"),
        (14, "warning", "a step draws 2.1 times the batch"),
        (15, "ok", "there are more records, which is fine"),
        (60, "ok", "a step draws 0.5 times batch_size"),
        (61, "warning", "updates are weaker"),
    ],
)
def test_the_public_size_is_compared_with_the_true_one(path: Path, size: int, state: str, said: str) -> None:
    found = look(change(path, data={"public_size": size}))["records", "public size"]
    assert found.state == state
    assert said in found.text


def users(path: Path, records: list[dict[str, Any]], field: str = "patient") -> Path:
    write_records(path, records)
    return change(path, data={"unit": "user", "user_field": field, "public_size": 4})


def user_plan(make_plan: MakePlan) -> Plan:
    return make_plan(
        training={"batch_size": 2}, privacy={"unit": "user", "records_per_user": 2, "epsilon": 8.0, "delta": 1e-3}
    )


def test_users_are_counted_and_those_without_are_named(path: Path, make_plan: MakePlan) -> None:
    # Users with 1, 2 and 6 records; two records are nobody's.
    records: list[dict[str, Any]] = [{"text": "parcel", "patient": n} for n in (1, 2, 2, *[3] * 6)]
    found = look(users(path, [*records, {"text": "x"}, {"text": "y", "patient": None}]), user_plan(make_plan))
    assert not_ok(found) == {"records records without user": "warning"}
    assert found["records", "users"].text == (
        "11 records of 3 users (2 belong to no user); a user has 2 records (median), 6 at most"
    )
    assert found["records", "records without user"].text.startswith("2 of 11 records have no 'patient'")
    assert "all 9 records give tokens" in found["records", "examples"].text
    assert "1 of 3 users have more, 0 none" in found["records", "plan's records per user"].text


def test_a_misspelt_user_field_is_wrong(path: Path, make_plan: MakePlan) -> None:
    path = users(path, [{"text": "parcel", "patient": n % 3} for n in range(9)], "pateint")
    found = look(path, user_plan(make_plan))
    assert not_ok(found)["records users"] == "wrong"
    assert "'pateint': none of the 9 records has such a field" in found["records", "users"].text


def test_a_user_field_that_names_records_is_noticed(path: Path) -> None:
    found = look(users(path, [{"text": "parcel", "id": n} for n in range(3)], "id"))
    assert not_ok(found) == {"records records per user": "warning"}


def test_the_tokens_of_a_step_are_counted_as_training_fills_its_micro_batches(
    path: Path, make_plan: MakePlan
) -> None:
    """By hand, where all are drawn: 100 // 16 = 6 rows, 100 // 32 = 3, 100 // 112 is 0, and so 1 row."""
    change(path, data={"public_size": 8}, vault={"max_tokens": 100})
    units = [(Example((1,) * length, (1,) * length),) for length in (2, 15, 16, 20, 31, 17, 100)] + [()]
    tokens = tokens_of_a_step(Organization.read(path), make_plan(), units, numbers=2**25)
    # Gradients so large that a group has the rows of its shortest: 2 and 15 with 16, 20, 31, 17; then 100 alone.
    assert tokens == 6 * 16 + 2 * 3 * 32 + 112
    # At half the rate about half of many short ones are drawn: of 1000, 500 ± 16, six in a micro-batch.
    tokens = tokens_of_a_step(Organization.read(path), make_plan(training={"batch_size": 4}), units[:1] * 1000, 1)
    assert 430 / 6 * 96 < tokens < 570 / 6 * 96


def test_of_a_user_no_more_records_are_counted_than_the_plan_uses(path: Path, make_plan: MakePlan) -> None:
    path = users(path, [{"text": "parcel", "patient": 1}])
    organization = Organization.read(change(path, data={"public_size": 2}, vault={"max_tokens": 16}))
    one = Example((1, 2), (1, 2))
    # Users of one and of six records, of which two are used: three micro-batches of one row.
    assert tokens_of_a_step(organization, user_plan(make_plan), [(one,), (one,) * 6], 1) == 3 * 16


# Base models


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def unknown(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "model_type": "nothing-known"}))


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (pickled, "pickled (pytorch_model.bin), and to read those can run code; it should hold .safetensors"),
        (cut_short, "cannot be read as safetensors"),
        (unknown, "nothing-known"),
        (without_tokenizer, "tokenizer"),
        (empty, "it should be the folder of a model in Hugging Face format"),
        (shutil.rmtree, "it should be the folder of a model in Hugging Face format"),
    ],
)
def test_a_base_model_that_cannot_be_used_is_wrong(
    path: Path, tiny_base: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    shutil.copytree(tiny_base, tmp_path / "base")
    spoil(tmp_path / "base")
    found = look(change(path, models={"other": str(tmp_path / "base")}))
    assert not_ok(found) == {"model other": "wrong"}
    assert said in found["model", "other"].text
    assert found["model", str(tiny_base)].state == "ok"


def test_a_plan_whose_model_is_not_listed_is_wrong(path: Path, make_plan: MakePlan) -> None:
    found = look(path, make_plan(model={"base": "another/model"}))
    assert not_ok(found) == {"model another/model": "wrong", "plan policy": "wrong"}
    assert "is not listed in [models], which has: " in found["model", "another/model"].text


# Device


def test_a_device_that_is_not_there_is_wrong(path: Path, make_plan: MakePlan) -> None:
    found = look(change(path, vault={"device": "cuda:7"}), make_plan())
    assert not_ok(found) == {"device device": "wrong"}
    assert "vault.device = 'cuda:7'" in found["device", "device"].text


def test_a_plan_that_the_model_cannot_take_is_wrong(path: Path, make_plan: MakePlan) -> None:
    found = look(path, make_plan(task={"max_length": 500}))
    assert not_ok(found) == {"device plan": "wrong"}
    assert "the base model has 64 positions" in found["device", "plan"].text


def test_the_micro_batch_that_is_tried_is_the_one_that_training_makes(path: Path, make_plan: MakePlan) -> None:
    shapes = []
    once = PerExampleGradients.of

    def watched(self: Any, task: Any, batch: Any) -> Any:
        shapes.append((len(batch.examples), batch.rows, batch.length))
        return once(self, task, batch)

    PerExampleGradients.of = watched  # type: ignore[method-assign]
    try:
        found = look(change(path, vault={"max_tokens": 200}), make_plan())
    finally:
        PerExampleGradients.of = once  # type: ignore[method-assign]
    # 32 tokens and at least one of padding are 48 positions; 200 // 48 = 4. Two verifications come first.
    assert shapes[2:] == [(4, 4, 48)] * 2
    assert "a micro-batch of 4 × 48 tokens" in found["device", "memory"].text


def test_a_round_that_takes_longer_than_the_plan_waits_is_noticed(path: Path, make_plan: MakePlan) -> None:
    found = look(path, make_plan(federation={"round_timeout": 1e-4}))
    assert not_ok(found) == {"device time": "warning"}
    assert "the plan waits for 0.0001 s" in found["device", "time"].text


def test_training_that_would_not_train_is_wrong(
    path: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = PerExampleGradients.of

    def doubled(self: Any, task: Any, batch: Any) -> Any:
        return {name: 2 * gradient for name, gradient in once(self, task, batch).items()}

    monkeypatch.setattr(PerExampleGradients, "of", doubled)
    found = look(path, make_plan())
    assert not_ok(found) == {"device training": "wrong"}
    assert "differs from a plain loop's" in found["device", "training"].text


def test_a_plan_that_does_not_fit_into_memory_is_wrong_and_what_to_lower_is_said(
    path: Path, make_plan: MakePlan
) -> None:
    plan = write_plan(path.parent, make_plan())
    change(path, vault={"max_tokens": 500_000})
    limit = 6 * 2**30
    ended = subprocess.run(
        [sys.executable, "-m", "sotto", "client", "check", str(path), "--plan", str(plan), "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert (ended.returncode, ended.stderr) == (1, "")
    wrong = [one for one in json.loads(ended.stdout)["checks"] if one["state"] != "ok"]
    assert [(one["group"], one["name"], one["state"]) for one in wrong] == [("device", "plan", "wrong")]
    assert wrong[0]["text"].startswith("out of memory, where ")
    assert wrong[0]["text"].endswith("set vault.max_tokens = 500000 lower, 48 at least")


def test_on_a_gpu_nothing_is_tried_beside_a_running_vault(path: Path) -> None:
    organization = Organization.read(path)
    assert not would_disturb(organization, torch.device("cuda:0"))
    with exclusive(path.parent / "ledger.db"):
        assert would_disturb(organization, torch.device("cuda:0"))
        assert not would_disturb(organization, torch.device("cpu"))


# Key, ledger, plan


def key_of(path: Path) -> Path:
    return path.parent / "keys" / "statement.key"


def open_to_all(path: Path) -> None:
    key_of(path).chmod(0o644)


def of_another_kind(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    key_of(path).write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def removed(path: Path) -> None:
    key_of(path).unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(open_to_all, "run: chmod 600"), (of_another_kind, "not an Ed25519 key"), (removed, "sotto client keys")],
)
def test_a_statement_key_that_cannot_be_used_is_wrong(
    path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(path)
    found = look(path)
    assert not_ok(found) == {"ledger statement key": "wrong"}
    assert said in found["ledger", "statement key"].text


def ledger_of(path: Path) -> Ledger:
    return Ledger(path.parent / "ledger.db", "st-mary", "example", StatementKey.read(key_of(path)))


def reserve(path: Path, epsilon: float) -> None:
    ledger = ledger_of(path)
    ledger.reserve(Reservation("a", "p", "f", Mechanism(0.1, 1.5, 12), epsilon, 1e-5, 2), Cap(20.0, 5e-3))
    ledger.close()


def test_another_key_than_the_ledgers_is_wrong(path: Path) -> None:
    reserve(path, 1.0)
    removed(path)
    StatementKey.generate().write(key_of(path))
    found = look(path)
    assert not_ok(found) == {"ledger ledger's key": "wrong"}
    assert "put the key back" in found["ledger", "ledger's key"].text


def changed_entry(path: Path) -> None:
    with sqlite3.connect(path.parent / "ledger.db") as database:
        database.execute("DROP TRIGGER chain_no_UPDATE")
        database.execute("UPDATE chain SET entry = replace(entry, '1.0', '0.1') WHERE number = 1")


def changed_signature(path: Path) -> None:
    with sqlite3.connect(path.parent / "ledger.db") as database:
        database.execute("DROP TRIGGER chain_no_UPDATE")
        database.execute("UPDATE chain SET signature = ? WHERE number = 1", ("00" * 64,))


def no_database(path: Path) -> None:
    (path.parent / "ledger.db").write_bytes(b"garbage" * 100)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (changed_entry, "entry 1 of the ledger was changed or removed"),
        (changed_signature, "is not signed with its key"),
        (no_database, "cannot be used as a ledger"),
    ],
)
def test_a_ledger_that_is_not_sound_is_wrong(
    path: Path, make_plan: MakePlan, spoil: Callable[[Path], None], said: str
) -> None:
    reserve(path, 1.0)
    spoil(path)
    found = look(path, make_plan())
    assert not_ok(found)["ledger ledger"] == "wrong"
    assert said in found["ledger", "ledger"].text
    # What a plan would cost cannot be told without it.
    assert said in found["plan", "cost"].text


def test_a_budget_that_is_used_up_is_noticed(path: Path, make_plan: MakePlan) -> None:
    reserve(path, 20.0)
    found = look(path, make_plan())
    assert not_ok(found) == {"ledger budget": "warning", "plan cost": "wrong"}
    assert "the lifetime budget does not cover it" in found["plan", "cost"].text


def test_a_plan_beyond_the_policy_is_wrong(path: Path, make_plan: MakePlan) -> None:
    found = look(path, make_plan(privacy={"epsilon": 9.0}))
    assert not_ok(found) == {"plan policy": "wrong"}
    assert "privacy.epsilon = 9.0; a run may cost 8.0 at most" in found["plan", "policy"].text
    assert ("plan", "cost") not in found


def test_a_plan_that_is_not_approved_is_said_and_not_recorded(path: Path, make_plan: MakePlan) -> None:
    change(path, policy={"plans": "approved"})
    found = look(path, make_plan())
    assert not_ok(found) == {"plan approval": "warning"}
    assert "sotto client approve" in found["plan", "approval"].text
    approvals = Approvals(path.parent / "approved-plans.txt")
    assert make_plan() not in approvals
    approvals.add(make_plan())
    assert not_ok(look(path, make_plan())) == {}


# Socket


def test_a_socket_path_that_is_too_long_is_wrong(path: Path) -> None:
    found = look(change(path, vault={"socket": "s" * 108}))
    assert not_ok(found) == {"connection socket": "wrong"}
    assert "the system allows 107" in found["connection", "socket"].text


def test_a_socket_folder_that_everybody_may_write_is_wrong(path: Path) -> None:
    (path.parent / "run").mkdir()
    (path.parent / "run").chmod(0o777)
    found = look(change(path, vault={"socket": "run/vault.sock"}))
    assert not_ok(found) == {"connection socket": "wrong"}
    assert "chmod o-w" in found["connection", "socket"].text


def test_a_socket_group_has_to_be_there_and_to_reach_the_socket(path: Path) -> None:
    import grp

    own = grp.getgrgid(os.getgid()).gr_name
    (path.parent / "run").mkdir(mode=0o700)
    change(path, vault={"socket": "run/vault.sock", "group": "no-such-group"})
    assert not_ok(look(path)) == {"connection socket's group": "wrong"}
    change(path, vault={"group": own})
    found = look(path)
    assert not_ok(found) == {"connection socket's group": "wrong"}
    assert "may not pass through" in found["connection", "socket's group"].text
    (path.parent / "run").chmod(0o710)
    assert not_ok(look(path)) == {}


# Exit codes


def test_what_is_wrong_is_exit_code_1_and_a_warning_is_not(path: Path, cli: Cli) -> None:
    change(path, data={"public_size": 30})
    code, printed, _ = cli(path)
    assert code == 0
    assert "\nst-mary: nothing wrong, 1 to look at" in printed
    open_to_all(path)
    code, printed, errors = cli(path)
    assert (code, errors) == (1, "")
    assert "\nwrong   ledger     statement key: " in printed
    assert "\nst-mary: 1 wrong, 1 to look at" in printed
    assert json.loads(cli(path, "--json")[1])["ok"] is False


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "there is no such file"),
        (lambda path: path.write_text("name = "), "not valid TOML"),
        (lambda path: path.write_text('nam = "st-mary"\n'), "did you mean 'name'?"),
    ],
)
def test_a_file_that_cannot_be_read_as_settings_is_exit_code_2(
    path: Path, make_plan: MakePlan, cli: Cli, spoil: Callable[[Path], None], said: str
) -> None:
    plan = write_plan(path.parent, make_plan())
    spoil(plan)
    code, printed, errors = cli(path, "--plan", plan)
    assert (code, printed) == (2, "")
    assert said in errors
    assert len(errors.splitlines()) == 1
    spoil(path)
    assert cli(path)[0] == 2
