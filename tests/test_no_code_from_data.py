"""Nothing that is read becomes code: no module unpickles, evaluates or loads anything but safetensors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = ("common", "client", "server", "simulations", "benchmarks")
SOURCES = [ROOT / "sotto.py", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "shelve", "dill", "joblib", "marshal", "yaml", "runpy"}
NAMES = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {"unpickle", "Unpickler", "import_module", "exec_module", "extractall", "load_checkpoint"}
# Loaders of others, and what they must be told. PEFT's reads a folder that has been looked at.
LOADERS = {
    "AutoConfig": {"trust_remote_code": False},
    "AutoTokenizer": {"trust_remote_code": False},
    "AutoModelForCausalLM": {"trust_remote_code": False, "use_safetensors": True},
    "AutoModelForSequenceClassification": {"trust_remote_code": False, "use_safetensors": True},
    "auto_class": {"trust_remote_code": False, "use_safetensors": True},
    "PeftConfig": {},
    "PeftModel": {},
}
# `import sotto` imports the classes of a table of its own when they are first used.
IMPORTING = {("sotto.py", "import_module")}
PEFT_IN = {"common/results/adapter_folder.py"}


def violations(source: str, name: str) -> Iterator[str]:
    """What a module does that would make code of data; `name` is its path."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in MODULES:
                yield str(node.module)
            yield from (alias.name for alias in node.names if alias.name in ATTRIBUTES)
        elif isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES and (name, node.attr) not in IMPORTING:
            yield node.attr
        elif isinstance(node, ast.Call):
            yield from _called(node, name)


def _called(node: ast.Call, name: str) -> Iterator[str]:
    said = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
    if isinstance(node.func, ast.Name) and node.func.id in NAMES:
        yield node.func.id
    if not isinstance(node.func, ast.Attribute):
        return
    owner = ast.unparse(node.func.value)
    if (owner, node.func.attr) in {("torch", "load"), ("torch", "jit"), ("np", "fromregex")}:
        yield f"{owner}.{node.func.attr}"
    if (
        owner in ("np", "numpy")
        and node.func.attr in ("load", "genfromtxt")
        and said.get("allow_pickle") is not False
    ):
        yield f"{owner}.{node.func.attr} that may unpickle"
    if node.func.attr == "from_pretrained":
        if owner not in LOADERS:
            yield f"{owner}.from_pretrained, which nobody has looked at"
        elif not LOADERS[owner].items() <= said.items():
            yield f"{owner}.from_pretrained without {LOADERS[owner]}"
        elif not LOADERS[owner] and name not in PEFT_IN:
            yield f"{owner}.from_pretrained on a folder that nobody has looked at"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_makes_code_of_data(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    assert list(violations(path.read_text(encoding="utf-8"), name)) == []


CAUGHT = [
    "import pickle",
    "import joblib.memory",
    "from dill import loads",
    "from yaml import safe_load",
    "import shelve as s",
    "torch.load('x')",
    "np.load('x')",
    "np.load('x', allow_pickle=True)",
    "eval('1')",
    "exec(text)",
    "importlib.import_module(name)",
    "AutoModelForCausalLM.from_pretrained(x, use_safetensors=True)",
    "AutoModelForCausalLM.from_pretrained(x, trust_remote_code=False)",
    "AutoModelForCausalLM.from_pretrained(x, trust_remote_code=False, use_safetensors=False)",
    "AutoConfig.from_pretrained(x, trust_remote_code=trust)",
    "AutoModel.from_pretrained(x)",
    "PeftModel.from_pretrained(base, x)",
    "archive.extractall(folder)",
]


@pytest.mark.parametrize("source", CAUGHT)
def test_the_look_sees_what_it_looks_for(source: str) -> None:
    assert len(list(violations(source, "common/model/model.py"))) == 1


def test_what_is_harmless_is_let_be() -> None:
    harmless = (
        "model.eval(); np.load(x, allow_pickle=False); AutoConfig.from_pretrained(x, trust_remote_code=False)"
    )
    assert list(violations(harmless, "common/model/model.py")) == []
