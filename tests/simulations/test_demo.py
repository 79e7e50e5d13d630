"""The embedded demo: separate synthetic records, a small base model, and a plan that fits them."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from client.vault.policy.policy import check_plan_fits
from simulations.demo.corpus import ORGANIZATIONS, PROMPTS, private_records, public_test
from simulations.demo.prepare import prepare_demo
from simulations.simulate import organizations_of, simulated_organization
from tests.conftest import DEMO_BASE

RECORDS = {name: private_records(name) for name in ORGANIZATIONS}


def test_each_organization_has_its_own_few_thousand_distinct_records() -> None:
    assert set(ORGANIZATIONS) == {"bank", "clinic", "shop", "carrier"}
    assert len(set(ORGANIZATIONS.values())) == 4, "they should be of unequal size"
    for name, records in RECORDS.items():
        assert len(records) == ORGANIZATIONS[name] > 1000
        assert len({(record["question"], record["answer"]) for record in records}) == len(records)


def test_public_test_and_prompts_are_in_no_organizations_records() -> None:
    private = {record["question"] for records in RECORDS.values() for record in records}
    assert not private & {record["question"] for record in public_test()}
    assert not private & set(PROMPTS.values())


def test_the_same_seed_gives_the_same_records() -> None:
    assert private_records("shop") == RECORDS["shop"]
    assert private_records("shop", seed=1) != RECORDS["shop"]


def test_the_base_model_is_small_and_its_tokenizer_keeps_any_text() -> None:
    model = AutoModelForCausalLM.from_pretrained(DEMO_BASE)
    assert model.config.model_type == "llama"
    assert sum(parameter.numel() for parameter in model.parameters()) <= 1_000_000
    assert sum(file.stat().st_size for file in DEMO_BASE.iterdir()) < 4_000_000
    tokenizer = AutoTokenizer.from_pretrained(DEMO_BASE)
    for text in ("Customer: where?\nAgent: here.", "Grüße, 你好, 🙂", "  two  spaces", "tab\tand 1234.50"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize("name", sorted(ORGANIZATIONS))
def test_the_plan_costs_every_organization_at_most_its_epsilon(name: str, tmp_path: Path) -> None:
    plan = prepare_demo(tmp_path)
    assert (plan.privacy.epsilon, plan.privacy.delta) == (8.0, 1e-5)
    own = organizations_of(plan)[name]
    mechanism = check_plan_fits(plan, simulated_organization(name, plan, len(own)))
    assert mechanism.steps == plan.training.rounds * plan.training.local_steps
    assert mechanism.noise_multiplier > 0.3
