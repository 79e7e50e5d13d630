"""Vaults that are killed: what was seen of each, held against the ledger that it leaves."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sqlite3
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from client.vault.ledger.ledger import Ledger
from client.vault.policy.organization import Organization
from client.vault.vault import Vault
from common.keys.statement_key import StatementKey
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.privacy.accounting import epsilon
from common.privacy.mechanism import Mechanism
from common.protocol.protocol import TrainRequest
from common.records import Record, read_records
from tests.client.vaults import request_for, write_organization

ROUNDS = 3
STEPS = 2
# How often a round that was answered is asked for again, as by a coordinator that lost the answer.
ASKED_AGAIN = 0.2
PRIVACY = {"epsilon": 2.0, "delta": 1e-5}


Key = tuple[str, int]


@dataclass(frozen=True)
class Home:
    """An organization with all that its vault needs, loaded; only the ledger is opened by each vault itself."""

    path: Path
    organization: Organization
    key: StatementKey
    records: list[Record]
    model: LoraModel
    plan: Plan

    @property
    def ledger(self) -> Path:
        return self.organization.path(self.organization.vault.ledger)

    @property
    def journal(self) -> Path:
        return self.ledger.with_name(f"{self.ledger.name}-journal")

    def open_ledger(self, path: Path | None = None) -> Ledger:
        return Ledger(path or self.ledger, self.organization.name, self.organization.data.unit, self.key)

    def vault(self, ledger: Ledger, entropy: Any) -> Vault:
        return Vault(self.organization, self.records, ledger, lambda _f, _p: self.model, entropy, "same user")

    def request(self, key: Key) -> TrainRequest:
        return request_for(self.plan, key[1], key[0])


def make_home(folder: Path, plan: Plan, **vault: Any) -> Home:
    """An organization that can afford hundreds of runs."""
    path = write_organization(folder, Path(plan.model.base), **vault)
    values = tomllib.loads(path.read_text())
    values["policy"].update(max_epsilon=1e6, max_delta=2e-2)
    path.write_text(tomli_w.dumps(values))
    organization = Organization.read(path)
    return Home(
        path=path,
        organization=organization,
        key=StatementKey.read(organization.path(organization.vault.statement_key)),
        records=read_records(organization.path(organization.data.train)),
        model=LoraModel(plan.model.base, plan),
        plan=plan,
    )


class Chance(random.Random):
    """A generator that remembers its seed."""

    def __init__(self) -> None:
        self.start = time.time_ns() % 2**32
        super().__init__(self.start)

    @contextmanager
    def told(self, what: object) -> Iterator[None]:
        """Whatever fails in the context says the seed."""
        try:
            yield
        except BaseException as error:
            error.add_note(f"seed {self.start}, {what}")
            raise


@dataclass(frozen=True)
class Books:
    """What a ledger's file says, read with nothing of ours.

    Attributes:
        entries: the texts of the chain.
        charges: the one entry of each run.
        stored: the bytes of each release.
    """

    entries: list[str]
    charges: dict[str, dict[str, Any]]
    stored: dict[Key, bytes]

    @property
    def epsilon(self) -> float:
        return sum(float(entry["epsilon"]) for entry in self.charges.values())


def read_books(ledger: Path, scratch: Path) -> Books:
    """The books in a copy, with what a killed process left beside them: ours is recovered by our own class."""
    scratch.mkdir()
    for file in ledger.parent.glob(f"{ledger.name}*"):
        shutil.copyfile(file, scratch / file.name)
    with closing(sqlite3.connect(scratch / ledger.name)) as database:
        chain = database.execute("SELECT number, entry, digest FROM chain ORDER BY number").fetchall()
        releases = database.execute("SELECT run, round, released FROM releases").fetchall()
    shutil.rmtree(scratch)
    digest, charges, settled = "", {}, {}
    for expected, (number, text, said) in enumerate(chain):
        digest = hashlib.sha256(f"{digest}\n{text}".encode()).hexdigest()
        assert (number, said) == (expected, digest), "the chain is broken"
        entry = json.loads(text)
        if entry["kind"] == "run":
            assert entry["run"] not in charges, "a run is charged twice"
            charges[entry["run"]] = entry
        elif entry["kind"] == "release":
            assert entry["run"] in charges, "a round is settled before its run is charged"
            assert (entry["run"], entry["round"]) not in settled, "a round is settled twice"
            settled[entry["run"], entry["round"]] = entry["sha256"]
    stored = {(run, number): bytes(released) for run, number, released in releases}
    assert {key: hashlib.sha256(released).hexdigest() for key, released in stored.items()} == settled
    return Books([text for _, text, _ in chain], charges, stored)


@dataclass(frozen=True)
class Attempt:
    """What was seen of a vault that was asked once and then killed.

    Attributes:
        piece: of its answer, as much as came; empty for none.
        whole: whether that is all of it.
        trained: whether a keystream was asked for: before this there is no sample, no gradient and no noise.
        refusal: what it said in place of an answer.
    """

    piece: bytes = b""
    whole: bool = False
    trained: bool = False
    refusal: str = ""


class Audit:
    """HeldRequests a ledger against everything that was ever seen of it.

    Attributes:
        books: the last that were found.
        answers: every answer that was seen.
        hit: how many kills hit what.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        home.open_ledger().close()
        self._scratch = home.path.parent / "scratch"
        self.books = read_books(home.ledger, self._scratch)
        self.answers: dict[Key, bytes] = {}
        self.hit: Counter[str] = Counter()
        self._tried: set[Key] = set()

    def next_key(self, chance: random.Random) -> Key:
        """What a coordinator asks next: what was not answered, and now and then what was."""
        if self.answers and chance.random() < ASKED_AGAIN:
            return chance.choice(sorted(self.answers))
        place = len(self.answers)
        return f"run-{place // ROUNDS}", place % ROUNDS + 1

    def check(self, key: Key, attempt: Attempt) -> None:
        """After a kill, or a refusal: nothing is missing, nothing is too much."""
        before, books = self.books, read_books(self._home.ledger, self._scratch)
        if attempt.whole:
            assert self.answers.setdefault(key, attempt.piece) == attempt.piece, "two answers for one round"
        self._check_charges(before, books)
        for answered, answer in self.answers.items():
            assert books.stored.get(answered) == answer, f"the answer of {answered} is not what is stored"
        if attempt.piece:
            assert books.stored[key].startswith(attempt.piece), "a part of an answer was not settled"
        if attempt.trained:
            assert key[0] in books.charges, "trained before the charge"
            assert key not in before.stored, "trained again what was settled"
        self._check_ours(key, books)
        self._count(key, attempt, before, books)
        self.books = books

    def _check_charges(self, before: Books, books: Books) -> None:
        assert books.entries[: len(before.entries)] == before.entries, "an entry is gone"
        assert books.epsilon >= before.epsilon
        for entry in books.charges.values():
            mechanism = entry["mechanism"]
            assert (entry["rounds"], mechanism["steps"]) == (ROUNDS, ROUNDS * STEPS), "not charged whole"
            whole = Mechanism(mechanism["sample_rate"], mechanism["noise_multiplier"], ROUNDS * STEPS)
            assert entry["epsilon"] >= epsilon(whole, entry["delta"])

    def _check_ours(self, key: Key, books: Books) -> None:
        """The ledger as the next vault opens it, which recovers and verifies it, says the same."""
        request = self._home.request(key)
        with closing(self._home.open_ledger()) as ledger:
            assert {run.run: run.epsilon for run in ledger.runs()} == {
                run: entry["epsilon"] for run, entry in books.charges.items()
            }
            assert ledger.released(*key, request.digest()) == books.stored.get(key)
            assert ledger.settled_rounds(key[0]) == sorted(n for run, n in books.stored if run == key[0])

    def _count(self, key: Key, attempt: Attempt, before: Books, books: Books) -> None:
        if key in before.stored:
            window = "asked again, stored answer given" if attempt.whole else "asked again, no answer yet"
        elif key in books.stored:
            window = "settled, answered" if attempt.whole else "settled, not answered"
        elif key[0] not in books.charges:
            window = "before the charge"
        else:
            window = "charged, keystream seen" if attempt.trained else "charged, no keystream seen"
        self.hit[window] += 1
        if attempt.trained:
            self.hit["trained again under the same charge"] += key in self._tried
            self._tried.add(key)

    def hits(self, *words: str) -> int:
        """How many kills hit a window that is named so."""
        return sum(count for window, count in self.hit.items() if window.startswith(words))
