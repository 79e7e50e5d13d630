"""Settings files: a mistake gives a one-line error; the commented template follows from the types."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import Field

from common.errors import InputError
from common.settings import Section, load, template, validate


class Engine(Section):
    """What drives it."""

    power: float = Field(gt=0, examples=[1.5])
    """Horsepower, of which there should be more than none."""
    fuel: str | None = None
    """What it drinks."""


class Boat(Section):
    """A boat."""

    name: str = Field(examples=["Ærøskøbing"])
    """Written on the bow."""
    engine: Engine
    crew: list[str] = []
    """Everybody aboard."""
    spare: Engine | None = None


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(path, Boat)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "boat.toml") == "there is no such file"


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path).startswith("cannot be read as text")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'name = "\xff\xfe"', "cannot be read as text"),
        (b"name: boat", "not valid TOML"),
        (b"name = 1\nname = 2", "not valid TOML"),
        (b"name =", "not valid TOML"),
        (b"name = " + b"9" * 5000, "not valid TOML"),
        (b"name = " + b"[" * 5000, "not valid TOML"),
    ],
    ids=["not UTF-8", "YAML", "a key twice", "cut off", "endless integer", "endless nesting"],
)
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "boat.toml"
    path.write_bytes(data)
    assert refused(path).startswith(said)


def test_a_table_of_tables_is_read(tmp_path: Path) -> None:
    path = tmp_path / "boat.toml"
    path.write_text('name = "Ærøskøbing"\n[engine]\npower = 2\n[spare]\npower = 1.5\n', encoding="utf-8")
    boat = load(path, Boat)
    assert boat == Boat(name="Ærøskøbing", engine=Engine(power=2.0), spare=Engine(power=1.5))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"engine": {"powr": 1.0}}, "[engine] has no key 'powr'; did you mean 'power'?"),
        ({"spare": {"powr": 1.0}}, "[spare] has no key 'powr'; did you mean 'power'?"),
        ({"engine": {"power": 0.0}}, "engine.power = 0.0: it should be greater than 0"),
        ({"engine": {"power": math.nan}}, "engine.power = nan: it should be a finite number"),
        ({"engine": {}}, "engine.power is missing"),
        ({"engine": 5}, "engine = 5: "),
        ({"engine": [{"power": 1.0}]}, "engine = [{'power': 1.0}]: "),
        ({"crew": ["Ane", 7]}, "crew.1 = 7: it should be a valid string"),
        ({"name": 7}, "name = 7: it should be a valid string"),
    ],
)
def test_a_mistake_is_named_with_its_location_and_value(values: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        validate({"name": "a", "engine": {"power": 1.0}, **values}, Boat, "boat.toml")
    assert str(caught.value).split(" (and ")[0].startswith(f"boat.toml: {said}")


def test_further_mistakes_are_counted() -> None:
    with pytest.raises(InputError, match=r"\(and 1 more\)$"):
        validate({"name": 1, "engine": {"power": 0.0}}, Boat, "boat.toml")


def test_values_cannot_be_changed_afterwards() -> None:
    boat = Boat(name="a", engine=Engine(power=1.0))
    with pytest.raises(ValueError, match="frozen"):
        boat.name = "b"


def test_the_commented_file_documents_the_types_and_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "boat.toml"
    path.write_text(template(Boat), encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# A boat.\n")
    assert "\n# Written on the bow.\n" in text
    assert "\n# What drives it.\n[engine]\n" in text
    assert "\n# What it drinks.\n# fuel = ...\n" in text
    boat = load(path, Boat)
    assert (boat.name, boat.engine.power, boat.engine.fuel, boat.crew) == ("Ærøskøbing", 1.5, None, [])
