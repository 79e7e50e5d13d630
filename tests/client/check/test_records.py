"""`sotto client check` of records, base models and device, with each possible mistake."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from client.check.check import GROUPS
from client.check.device import would_disturb
from client.check.timing import tokens_per_step
from client.vault.policy.organization import Organization
from client.vault.training.per_example import PerExampleGradients
from common.system.lock import exclusive
from common.tasks import Example
from tests.client.check.checking import (
    change,
    problems,
    run_checks,
    user_plan,
    users,
    write_plan,
    write_records,
)
from tests.conftest import MakePlan
from tests.programs.start import start
from tests.waiting import LONG


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("", "holds no records"),
        ('{"text": "a"}\n' * 6 + '{"text": "b"\n' + '{"text": "a"}\n', "line 7 is not JSON"),
        ('{"text": "a"}\n["a"]\n', "line 2 is a list"),
    ],
)
def test_records_that_cannot_be_read_are_wrong_and_all_else_is_still_looked_at(
    path: Path, make_plan: MakePlan, content: str | None, message: str
) -> None:
    (path.parent / "records.jsonl").unlink()
    if content is not None:
        (path.parent / "records.jsonl").write_text(content)
    findings = run_checks(path, make_plan())
    assert problems(findings) == {"records file": "wrong"}
    assert message in findings["records", "file"].text
    assert {group for group, _ in findings} == set(GROUPS)


def test_lengths_are_those_of_the_tokenizer_before_they_are_cut(
    path: Path, tiny_base: Path, make_plan: MakePlan
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    texts = ["parcel " * count for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 60)]
    write_records(path, [{"text": text} for text in texts])
    lengths = sorted(len(tokenizer(text.strip(), add_special_tokens=False)["input_ids"]) + 2 for text in texts)
    assert lengths[-1] > 32 >= lengths[-2]
    change(path, data={"public_size": 12})
    findings = run_checks(path, make_plan())
    assert findings["records", "lengths"].text == (
        f"a record has {lengths[5]} tokens (median), {lengths[-1]} at most; "
        "1 of 11 are truncated to the plan's max_length = 32"
    )
    assert problems(findings) == {}
    write_records(path, [{"text": text} for text in texts[-3:] * 4])
    assert problems(run_checks(path, make_plan(task={"max_length": 8}))) == {
        "records lengths": "warning",
        "records public size": "warning",
    }


def test_a_field_that_no_record_has_is_wrong_and_the_near_one_is_named(path: Path, make_plan: MakePlan) -> None:
    findings = run_checks(path, make_plan(task={"template": "{txt}"}))
    assert problems(findings) == {"records examples": "wrong"}
    text = findings["records", "examples"].text
    assert "no record can be trained on" in text
    assert "30: its 'txt' is missing, or is not a text or number (line 1, line 2, line 3, …)" in text
    assert "did you mean 'text'?" in text


def test_records_that_give_nothing_are_counted(path: Path, make_plan: MakePlan) -> None:
    write_records(path, [{"text": f"parcel {n}"} for n in range(28)] + [{"text": ""}, {"other": "x"}])
    findings = run_checks(path, make_plan())
    assert problems(findings) == {"records examples": "warning"}
    text = findings["records", "examples"].text
    assert text.startswith("2 of 30 records cannot be trained on")
    assert "1: its text is empty (line 29)" in text
    assert "1: its 'text' is missing, or is not a text or number (line 30)" in text


@pytest.mark.parametrize(
    ("size", "state", "message"),
    [
        (30, "warning", "is the true number of records"),
        (14, "warning", "a step draws 2.1 times batch_size"),
        (15, "ok", "there are more records, which is fine"),
        (60, "ok", "a step draws 0.5 times batch_size"),
        (61, "warning", "updates are smaller"),
    ],
)
def test_the_public_size_is_compared_with_the_true_one(path: Path, size: int, state: str, message: str) -> None:
    finding = run_checks(change(path, data={"public_size": size}))["records", "public size"]
    assert finding.state == state
    assert message in finding.text


def test_users_are_counted_and_those_without_are_named(path: Path, make_plan: MakePlan) -> None:
    # Users with 1, 2 and 6 records; two records have no user.
    records: list[dict[str, Any]] = [{"text": "parcel", "patient": n} for n in (1, 2, 2, *[3] * 6)]
    findings = run_checks(
        users(path, [*records, {"text": "x"}, {"text": "y", "patient": None}]), user_plan(make_plan)
    )
    assert problems(findings) == {"records records without user": "warning"}
    assert findings["records", "users"].text == (
        "11 records of 3 users (2 belong to no user); a user has 2 records (median), 6 at most"
    )
    assert findings["records", "records without user"].text.startswith("2 of 11 records have no 'patient'")
    assert "all 9 records can be trained on" in findings["records", "examples"].text
    assert "1 of 3 users have more, 0 have no usable record" in findings["records", "plan's records per user"].text


def test_a_misspelt_user_field_is_wrong(path: Path, make_plan: MakePlan) -> None:
    path = users(path, [{"text": "parcel", "patient": n % 3} for n in range(9)], "pateint")
    findings = run_checks(path, user_plan(make_plan))
    assert problems(findings)["records users"] == "wrong"
    assert "'pateint': none of the 9 records has such a field" in findings["records", "users"].text


def test_a_user_field_that_names_records_is_noticed(path: Path) -> None:
    findings = run_checks(users(path, [{"text": "parcel", "id": n} for n in range(3)], "id"))
    assert problems(findings) == {"records records per user": "warning"}


def test_the_tokens_of_a_step_are_counted_as_training_fills_its_micro_batches(
    path: Path, make_plan: MakePlan
) -> None:
    """By hand, where all are drawn: 100 // 16 = 6 rows, 100 // 32 = 3, 100 // 112 is 0, and so 1 row."""
    change(path, data={"public_size": 8}, vault={"max_tokens": 100})
    units = [(Example((1,) * length, (1,) * length),) for length in (2, 15, 16, 20, 31, 17, 100)] + [()]
    tokens = tokens_per_step(Organization.read(path), make_plan(), units, parameters=2**25)
    # With gradients so large, a group has the rows of its shortest: 2 and 15 with 16, 20, 31, 17; then 100 alone.
    assert tokens == 6 * 16 + 2 * 3 * 32 + 112
    # At half the rate about half of the units are drawn: of 1000, 500 ± 16, six in a micro-batch.
    tokens = tokens_per_step(Organization.read(path), make_plan(training={"batch_size": 4}), units[:1] * 1000, 1)
    assert 430 / 6 * 96 < tokens < 570 / 6 * 96


def test_of_a_user_no_more_records_are_counted_than_the_plan_uses(path: Path, make_plan: MakePlan) -> None:
    path = users(path, [{"text": "parcel", "patient": 1}])
    organization = Organization.read(change(path, data={"public_size": 2}, vault={"max_tokens": 16}))
    one = Example((1, 2), (1, 2))
    # Users of one and of six records, of which two are used: three micro-batches of one row.
    assert tokens_per_step(organization, user_plan(make_plan), [(one,), (one,) * 6], 1) == 3 * 16


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
    ("damage", "message"),
    [
        (pickled, "pickled (pytorch_model.bin), and unpickling can run code; it should contain .safetensors"),
        (cut_short, "cannot be read as safetensors"),
        (unknown, "nothing-known"),
        (without_tokenizer, "tokenizer"),
        (empty, "it should be the folder of a model in Hugging Face format"),
        (shutil.rmtree, "it should be the folder of a model in Hugging Face format"),
    ],
)
def test_a_base_model_that_cannot_be_used_is_wrong(
    path: Path, tiny_base: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(tiny_base, tmp_path / "base")
    damage(tmp_path / "base")
    findings = run_checks(change(path, models={"other": str(tmp_path / "base")}))
    assert problems(findings) == {"model other": "wrong"}
    assert message in findings["model", "other"].text
    assert findings["model", str(tiny_base)].state == "ok"


def test_a_plan_whose_model_is_not_listed_is_wrong(path: Path, make_plan: MakePlan) -> None:
    findings = run_checks(path, make_plan(model={"base": "another/model"}))
    assert problems(findings) == {"model another/model": "wrong", "plan policy": "wrong"}
    assert "is not listed in [models], which has: " in findings["model", "another/model"].text


# Device


def test_a_device_that_is_not_there_is_wrong(path: Path, make_plan: MakePlan) -> None:
    findings = run_checks(change(path, vault={"device": "cuda:7"}), make_plan())
    assert problems(findings) == {"device device": "wrong"}
    assert "vault.device = 'cuda:7'" in findings["device", "device"].text


def test_a_plan_that_the_model_cannot_take_is_wrong(path: Path, make_plan: MakePlan) -> None:
    findings = run_checks(path, make_plan(task={"max_length": 500}))
    assert problems(findings) == {"device plan": "wrong"}
    assert "the base model has 64 positions" in findings["device", "plan"].text


def test_the_micro_batch_that_is_tried_is_the_one_that_training_makes(path: Path, make_plan: MakePlan) -> None:
    shapes = []
    original = PerExampleGradients.rows

    def recorded(self: Any, task: Any, batch: Any) -> Any:
        shapes.append((len(batch.examples), batch.rows, batch.length))
        return original(self, task, batch)

    PerExampleGradients.rows = recorded  # type: ignore[method-assign]
    try:
        findings = run_checks(change(path, vault={"max_tokens": 200}), make_plan())
    finally:
        PerExampleGradients.rows = original  # type: ignore[method-assign]
    # 32 tokens and at least one of padding are padded to 48; 200 // 48 = 4. All before the last two are checks.
    assert shapes[-2:] == [(4, 4, 48)] * 2
    assert {shape for shape in shapes[2:] if shape[2] == 48} == {(4, 4, 48)}, "the rows were checked in this shape"
    assert "a micro-batch of 4 × 48 tokens" in findings["device", "memory"].text


def test_a_round_that_takes_longer_than_the_plan_waits_is_noticed(path: Path, make_plan: MakePlan) -> None:
    findings = run_checks(path, make_plan(federation={"round_timeout": 1e-4}))
    assert problems(findings) == {"device time": "warning"}
    assert "the plan's round_timeout is 0.0001 s" in findings["device", "time"].text


def test_training_that_would_not_train_is_wrong(
    path: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PerExampleGradients.rows

    def doubled(self: Any, task: Any, batch: Any) -> Any:
        return 2 * original(self, task, batch)

    monkeypatch.setattr(PerExampleGradients, "rows", doubled)
    findings = run_checks(path, make_plan())
    assert problems(findings) == {"device training": "wrong"}
    assert "differs from a plain loop's" in findings["device", "training"].text


def test_a_plan_that_does_not_fit_into_memory_is_wrong_and_what_to_lower_is_said(
    path: Path, make_plan: MakePlan
) -> None:
    plan = write_plan(path.parent, make_plan())
    change(path, vault={"max_tokens": 500_000})
    command = [sys.executable, "-m", "sotto", "client", "check", path, "--plan", plan, "--json"]
    printed, errors = path.parent / "printed", path.parent / "errors"
    with printed.open("wb") as output, errors.open("wb") as error_output:
        checking = start(command, cwd=path.parent, output=output, errors=error_output)
        # Set long before the process reaches the check of the device.
        resource.prlimit(checking.pid, resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    assert (checking.wait(LONG), errors.read_text()) == (1, "")
    wrong = [one for one in json.loads(printed.read_text())["checks"] if one["state"] != "ok"]
    assert [(one["group"], one["name"], one["state"]) for one in wrong] == [("device", "plan", "wrong")]
    assert wrong[0]["text"].startswith("out of memory, with ")
    assert wrong[0]["text"].endswith("set vault.max_tokens = 500000 lower, but at least 48")


def test_on_a_gpu_nothing_is_tried_beside_a_running_vault(path: Path) -> None:
    organization = Organization.read(path)
    assert not would_disturb(organization, torch.device("cuda:0"))
    with exclusive(path.parent / "ledger.db"):
        assert would_disturb(organization, torch.device("cuda:0"))
        assert not would_disturb(organization, torch.device("cpu"))
