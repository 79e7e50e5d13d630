"""`sotto simulate`: the rounds of a plan over vaults in this process.

Plan, rounds, trainer and ledger are those of a deployment; only the transport differs. The ledgers are in the run
directory; a simulation never opens the ledger of a deployment.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from client.vault.ledger.ledger import Ledger
from client.vault.policy.organization import Data, Organization, Policy, VaultSection
from client.vault.policy.policy import check_plan_fits
from client.vault.records.units import encode, group_by_user
from client.vault.training.entropy import Entropy, SystemEntropy
from client.vault.vault import Vault
from client.vault.workers.compute import Compute
from common.errors import InputError
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.plan.task import TaskSection
from common.protocol.protocol import Participant
from common.protocol.statement import SIMULATED
from common.records import Record, read_records
from common.report.report import PrivacyReport
from common.results.evaluate import PublicEvaluation
from common.results.generate import Sampling, generate
from common.tasks import check_some_usable, make_task
from common.tasks.text import device_of
from server.rounds.rounds import run_rounds
from server.rounds.strategy import organizations_needed
from server.run.result import write_result
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
    """The result of a finished simulation.

    Attributes:
        directory: of the run.
        report: the privacy report.
        answers: (prompt, answer of the base model, answer after the run).
    """

    directory: RunDirectory
    report: PrivacyReport
    answers: list[tuple[str, str, str]]


def organizations_of(plan: Plan) -> dict[str, list[Record]]:
    """The records of a plan's simulated organizations.

    Raises:
        InputError: the plan names no data, or the data cannot be read or partitioned.
    """
    if plan.simulation.data is None:
        raise InputError("simulation.data is missing: it should name the file of records to partition")
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
    workers: int | None = None,
) -> SimulationResult:
    """Run a plan on one machine.

    Args:
        plan: of the run.
        records: organization name → its records.
        out: the run directory; it must not contain a run, unless `resume`.
        resume: continue the run in `out`.
        run: the id of a new run; generated if it is missing.
        private: False trains without clipping and noise, at ε = ∞.
        observer: receives the progress.
        workers: processes that compute gradients with privacy; None for one on each core, or on each GPU.

    Raises:
        InputError: the plan does not match the records or the model, or `out` cannot be used; nothing is spent.
        SottoError: too few organizations answered.
    """
    _check_enough(plan, len(records))
    _check_user_field(plan)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with Compute(workers if private else 1, [device], share=True) as compute:
        return _simulate(plan, records, out, device, compute, resume, run, private, observer or Observer())


def _simulate(
    plan: Plan,
    records: Mapping[str, list[Record]],
    out: Path,
    device: str,
    compute: Compute,
    resume: bool,
    run: str | None,
    private: bool,
    observer: Observer,
) -> SimulationResult:
    ranks = itertools.cycle(plan.simulation.ranks or [None])
    organizations = {
        name: simulated_organization(name, plan, count_units(plan, part), rank)
        for (name, part), rank in zip(records.items(), ranks, strict=False)
    }
    for organization in organizations.values():
        check_plan_fits(plan, organization)
    model = LoraModel(plan.base_folder(), plan, device)
    task = make_task(plan.task, model.tokenizer)
    for name, part in records.items():
        check_some_usable(task, plan.task, part, f"the records of {name}")
    evaluation = PublicEvaluation(plan, model) if plan.evaluation.data is not None else None
    directory = resume_run(plan, out, private, model) if resume else start_run(plan, out, private, model, run)
    grid = LocalGrid(participants_of(directory, organizations, records, model, compute))
    with TensorBoard(directory.path / "tensorboard") as board:
        adapter = run_rounds(grid, directory, evaluation, Observers(observer, board))
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
    compute: Compute | None = None,
) -> dict[int, Participant]:
    """Node id → a vault of each organization, or a trainer without privacy if the run is not private."""
    plan = directory.plan
    seed = plan.simulation.noise_seed
    entropy: Entropy = SystemEntropy() if seed is None else SeededEntropy(seed)
    boundary = SIMULATED if seed is None else f"{SIMULATED}, noise repeatable from a seed"
    # All vaults of the same rank share one model; each loads its adapter before it trains.
    models = {plan.lora.rank: model}

    def load(folder: str, ranked: Plan) -> LoraModel:
        if ranked.lora.rank not in models:
            models[ranked.lora.rank] = LoraModel(folder, ranked, str(device_of(model.module)))
        return models[ranked.lora.rank]

    participants: dict[int, Participant] = {}
    for node, name in enumerate(sorted(organizations), start=1):
        organization, part = organizations[name], records[name]
        if directory.info.private:
            path = directory.path / "organizations" / name / organization.vault.ledger
            ledger = Ledger(path, name, organization.data.unit)
            participants[node] = Vault(organization, part, ledger, load, entropy, boundary, compute)
        else:
            encoded = encode(part, make_task(plan.task, model.tokenizer), plan.simulation.user_field)
            ranked_model = load(plan.base_folder(), organization.local_plan(plan))
            participants[node] = OpenTrainer(organization, encoded, ranked_model, plan, entropy)
    return participants


def count_units(plan: Plan, records: list[Record]) -> int:
    """The number of units in an organization's records: users, or records."""
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
    """Create a simulated organization, which publishes its number of units to two digits and allows this plan.

    Args:
        name: of the organization.
        plan: of the run.
        count: the number of its units.
        max_rank: the largest rank that it trains; None for no limit.

    Raises:
        InputError: it has no units.
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
            # If the plan's δ is too large for the size, `check_plan_fits` reports that.
            max_delta=min(plan.privacy.delta, 0.99 / public_size),
            plans="any-within-policy",
        ),
        vault=vault.model_copy(update={"max_tokens": 16384}) if torch.cuda.is_available() else vault,
    )


def _answer(model: LoraModel, section: TaskSection, prompt: str) -> str:
    return generate(model.module, model.tokenizer, prompt, Sampling(_ANSWER_TOKENS), section)
