"""`sotto simulate`: the rounds of a plan over vaults in this process.

Plan, rounds, trainer and ledger are those of a deployment; only the transport differs. The ledgers lie in the
run directory; a simulation never opens a deployed one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from client.vault.ledger.ledger import Ledger
from client.vault.policy.organization import Data, Organization, Policy, VaultSection
from client.vault.policy.policy import check_plan_fits
from client.vault.records.units import encode, group_by_user
from client.vault.training.entropy import Entropy, SystemEntropy
from client.vault.vault import Vault
from common.errors import InputError
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.plan.task import TaskSection
from common.protocol.protocol import Participant
from common.protocol.statement import SIMULATED
from common.records import Record, read_records
from common.tasks import check_some_usable, make_task
from common.tasks.text import device_of
from server.results.adapter_folder import write_result
from server.results.evaluate import PublicEvaluation
from server.results.generate import Sampling, generate
from server.rounds.rounds import run_rounds
from server.rounds.strategy import organizations_needed
from server.run.start import resume_run, start_run
from server.run_directory.run_directory import RunDirectory
from server.tracking.observer import Observer, Observers
from server.tracking.tensorboard import TensorBoard
from simulations.entropy import SeededEntropy
from simulations.local_grid import LocalGrid
from simulations.no_privacy import OpenTrainer
from simulations.partition import partition

_ANSWER_TOKENS = 80


@dataclass(frozen=True)
class SimulationResult:
    """What a finished simulation has to show.

    Attributes:
        directory: of the run.
        report: the privacy report.
        answers: (prompt, answer of the base model, answer after the run).
    """

    directory: RunDirectory
    report: dict[str, Any]
    answers: list[tuple[str, str, str]]


def organizations_of(plan: Plan) -> dict[str, list[Record]]:
    """The records of a plan's simulated organizations.

    Raises:
        InputError: the plan names no data, or it cannot be read or dealt.
    """
    if plan.simulation.data is None:
        raise InputError("simulation.data is missing: it should name the file of records to deal")
    _check_user_field(plan)
    return partition(read_records(plan.path(plan.simulation.data)), plan.simulation)


def simulate(
    plan: Plan,
    records: Mapping[str, list[Record]],
    out: Path,
    *,
    resume: bool = False,
    run: str | None = None,
    private: bool = True,
    observer: Observer | None = None,
) -> SimulationResult:
    """Run a plan on one machine.

    Args:
        plan: of the run.
        records: organization name → its records.
        out: the run directory; it holds no run yet, unless `resume`.
        resume: continue the run that `out` holds.
        run: the id of a new run; one is made if it is missing.
        private: False trains without clipping and noise, at ε = ∞.
        observer: told of the progress.

    Raises:
        InputError: the plan does not fit the records or the model, or `out` does not fit; nothing is spent.
        SottoError: too few organizations answered.
    """
    _check_enough(plan, len(records))
    _check_user_field(plan)
    ranks = itertools.cycle(plan.simulation.ranks or [None])
    organizations = {
        name: simulated_organization(name, plan, count_units(plan, own), rank)
        for (name, own), rank in zip(records.items(), ranks, strict=False)
    }
    for organization in organizations.values():
        check_plan_fits(plan, organization)
    model = LoraModel(plan.base_folder(), plan, "cuda" if torch.cuda.is_available() else "cpu")
    task = make_task(plan.task, model.tokenizer)
    for name, own in records.items():
        check_some_usable(task, plan.task, own, f"the records of {name}")
    evaluation = PublicEvaluation(plan, model) if plan.evaluation.data is not None else None
    directory = resume_run(plan, out, private, model) if resume else start_run(plan, out, private, model, run)
    grid = LocalGrid(participants_of(directory, organizations, records, model))
    with TensorBoard(directory.path / "tensorboard") as board:
        adapter = run_rounds(grid, directory, evaluation, Observers(observer or Observer(), board))
    report = write_result(directory, model, adapter)
    after = [_answer(model, plan.task, prompt) for prompt in plan.evaluation.prompts]
    model.load({})
    before = [_answer(model, plan.task, prompt) for prompt in plan.evaluation.prompts]
    return SimulationResult(directory, report, list(zip(plan.evaluation.prompts, before, after, strict=True)))


def participants_of(
    directory: RunDirectory,
    organizations: Mapping[str, Organization],
    records: Mapping[str, list[Record]],
    model: LoraModel,
) -> dict[int, Participant]:
    """By node: a vault for each organization, or a trainer that protects nobody if the run is so."""
    plan = directory.plan
    seed = plan.simulation.noise_seed
    entropy: Entropy = SystemEntropy() if seed is None else SeededEntropy(seed)
    boundary = SIMULATED if seed is None else f"{SIMULATED}, noise repeatable from a seed"
    # One base model serves all vaults of a rank; each loads its adapter before it trains.
    models = {plan.lora.rank: model}

    def load(folder: str, own: Plan) -> LoraModel:
        if own.lora.rank not in models:
            models[own.lora.rank] = LoraModel(folder, own, str(device_of(model.module)))
        return models[own.lora.rank]

    participants: dict[int, Participant] = {}
    for node, name in enumerate(sorted(organizations), start=1):
        organization, own = organizations[name], records[name]
        if directory.info.private:
            path = directory.path / "organizations" / name / organization.vault.ledger
            ledger = Ledger(path, name, organization.data.unit)
            participants[node] = Vault(organization, own, ledger, load, entropy, boundary)
        else:
            encoded = encode(own, make_task(plan.task, model.tokenizer), plan.simulation.user_field)
            trained = load(plan.base_folder(), organization.own_plan(plan))
            participants[node] = OpenTrainer(organization, encoded, trained, plan, entropy)
    return participants


def count_units(plan: Plan, records: list[Record]) -> int:
    """How many units an organization's records are: users, or records."""
    field = plan.simulation.user_field
    return len(records) if field is None else len(group_by_user(records, field))


def _check_enough(plan: Plan, count: int) -> None:
    if count < plan.federation.min_organizations:
        raise InputError(
            f"federation.min_organizations = {plan.federation.min_organizations}: "
            f"the simulation has {count} organizations"
        )
    if count < organizations_needed(plan):
        aggregation = plan.aggregation
        raise InputError(
            f"aggregation.byzantine = {aggregation.byzantine}: {aggregation.robust} then needs "
            f"{organizations_needed(plan)} organizations; the simulation has {count}"
        )


def _check_user_field(plan: Plan) -> None:
    if plan.privacy.unit == "user" and plan.simulation.user_field is None:
        raise InputError(
            'simulation.user_field is missing: privacy.unit = "user" needs the record field that names the user'
        )


def simulated_organization(name: str, plan: Plan, count: int, max_rank: int | None = None) -> Organization:
    """A simulated organization of so many units: it publishes the number to two digits, and allows this plan.

    Args:
        name: of the organization.
        plan: of the run.
        count: its units.
        max_rank: the largest rank that it trains; None for any.

    Raises:
        InputError: it has no unit.
    """
    if count < 1:
        raise InputError(f"{name}: has no {plan.privacy.unit} to train on")
    public_size = int(float(f"{count:.1e}"))
    vault = VaultSection(max_rank=max_rank)
    return Organization(
        name=name,
        data=Data(
            train="records.jsonl",
            unit=plan.privacy.unit,
            user_field=plan.simulation.user_field,
            public_size=public_size,
        ),
        models={plan.model.base: plan.base_folder()},
        policy=Policy(
            max_epsilon=plan.privacy.epsilon,
            max_epsilon_per_run=plan.privacy.epsilon,
            # A plan's δ that is too large for the size is refused as such, by `check_plan_fits`.
            max_delta=min(plan.privacy.delta, 0.99 / public_size),
            plans="any-within-policy",
        ),
        vault=vault.model_copy(update={"max_tokens": 16384}) if torch.cuda.is_available() else vault,
    )


def _answer(model: LoraModel, section: TaskSection, prompt: str) -> str:
    return generate(model.module, model.tokenizer, prompt, Sampling(_ANSWER_TOKENS), section)
