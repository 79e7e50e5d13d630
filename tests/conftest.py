"""What tests share: tiny real models, plans on them, and the way to the real data."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # as in sotto.py: programs are started beside open channels
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for tiny models a second thread costs more than it gives

import gc
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import sotto
from common.plan.plan import Plan
from common.settings import validate
from tests.programs import start as programs

ROOT = Path(__file__).parent.parent
DEMO_BASE = ROOT / "simulations" / "demo" / "base"


def pytest_configure(config: pytest.Config) -> None:
    """All workers of a test run fork their programs from one process, which this one outlives."""
    if not hasattr(config, "workerinput"):
        os.environ[programs.FOLDER_VARIABLE] = tempfile.mkdtemp(prefix="sotto-programs-")
        os.environ[programs.OWNER_VARIABLE] = str(os.getpid())


def pytest_unconfigure(config: pytest.Config) -> None:
    """The process that programs are forked from ends with this one."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(programs.FOLDER_VARIABLE), ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker waits for another one at the end."""
    longest = ("tests/federation/", "tests/client/vault/kills/test_process_kills.py", "tests/mutants/")
    items.sort(key=lambda item: not item.nodeid.startswith(longest))


def pytest_collection_finish() -> None:
    """What was imported stays for ever: no collection of garbage need go through it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was logged goes from a worker as UTF-8, which has no half surrogates; some tests log them."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs `sotto …` in this process: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sotto", *map(str, arguments)])
        code = 0
        try:
            sotto.main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data sets and models; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("SOTTO_SHARED", ROOT.parent / "shared")).absolute()
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}; set SOTTO_SHARED to their folder")
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama of two narrow layers, randomly initialized, and the demo's tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-base")
    tokenizer = AutoTokenizer.from_pretrained(DEMO_BASE)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


MakePlan = Callable[..., Plan]


@pytest.fixture
def make_plan(tiny_base: Path) -> MakePlan:
    """A small plan; keywords replace keys of its sections: make_plan(training={"rounds": 1})."""

    def make(**sections: Any) -> Plan:
        values: dict[str, Any] = {
            "name": "test",
            "model": {"base": str(tiny_base)},
            "task": {"max_length": 32},
            "lora": {"rank": 2, "alpha": 4.0},
            "training": {"rounds": 2, "local_steps": 2, "batch_size": 8, "learning_rate": 0.01},
            "federation": {"min_organizations": 2},
            "privacy": {"epsilon": 8.0, "delta": 1e-3},
        }
        for name, section in sections.items():
            if isinstance(section, dict):
                values[name] = {**values.get(name, {}), **section}
            else:
                values[name] = section
        return validate(values, Plan, "the test's plan")

    return make
