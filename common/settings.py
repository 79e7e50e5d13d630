"""TOML files as frozen, typed objects; mistakes as one-line errors; commented templates from the types.

Every file that a user writes (a plan, an organization) is a `Section` of `Section`s. The string under a
field is its documentation: `template` writes it into the file that `sotto init` creates.
"""

from __future__ import annotations

import difflib
import os
import re
import textwrap
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from common.errors import InputError

# The largest count in a file: products of counts can still be computed and written down.
LARGEST_COUNT = 10**9
Count = Annotated[int, Field(gt=0, le=LARGEST_COUNT)]


class Section(BaseModel):
    """A table of a TOML file: frozen, exact types, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


# A file may come from another party. The parsing time of TOML grows with the square of a key's length.
_MOST_BYTES = 2**16
_MOST_SHOWN = 500

S = TypeVar("S", bound=Section)
F = TypeVar("F", bound="SettingsFile")


class SettingsFile(Section):
    """A whole TOML file. It knows its own folder: paths in it are relative to that."""

    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    @classmethod
    def read(cls: type[F], path: Path) -> F:
        """Read the file.

        Raises:
            InputError: the first mistake in it, as one line.
        """
        settings = load(path, cls)
        settings._folder = path.absolute().parent
        return settings

    @classmethod
    def from_dict(cls: type[F], values: dict[str, Any]) -> F:
        """Build the settings from nested tables in place of a file. Paths are relative to the current folder.

        Raises:
            InputError: the first mistake in it, as one line.
        """
        return validate(values, cls, cls.__name__.lower())

    def path(self, text: str) -> Path:
        """Resolve a path that this file contains."""
        return resolve(text, self._folder)


def load(path: Path, kind: type[S]) -> S:
    """Read a TOML file into its type.

    Raises:
        InputError: the file does not exist, is not TOML, or does not match the type; one line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        text = data.decode()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from None
    if len(data) > _MOST_BYTES:
        raise InputError(f"{path}: should have at most {_MOST_BYTES} bytes")
    try:
        return validate(tomllib.loads(text), kind, str(path))
    except (ValueError, RecursionError) as error:  # includes TOMLDecodeError and the error for an endless integer
        raise InputError(f"{path}: not valid TOML: {error}") from None


def validate(values: dict[str, Any], kind: type[S], source: str) -> S:
    """Check values against their type.

    Args:
        values: nested tables, as a TOML or JSON parser gives them.
        kind: what they should be.
        source: where they came from; the error message starts with it.

    Raises:
        InputError: the first mistake, its value, and what would be right.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        # A misspelt key is reported twice, as unknown and as missing: report the cause first.
        details = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        more = "" if len(details) == 1 else f" (and {len(details) - 1} more)"
        raise InputError(f"{source}: {_explain(details[0], kind)}{more}") from None


def _explain(detail: ErrorDetails, kind: type[Section]) -> str:
    # For a union, pydantic adds the alternative that failed to the location, such as literal['all-linear'].
    place = ".".join(str(part) for part in detail["loc"] if "[" not in str(part))
    if detail["type"] == "extra_forbidden":
        table, key = detail["loc"][:-1], str(detail["loc"][-1])
        known = list(_section_at(kind, table).model_fields)
        near = difflib.get_close_matches(key[:_MOST_SHOWN], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        where = f"[{'.'.join(str(part) for part in table)}]" if table else "the file"
        return f"{where} has no key {_shown(key)}; {hint}"
    if detail["type"] == "missing":
        return f"{place} is missing"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
    if isinstance(detail["input"], dict):
        return f"{place}: {message}" if place else message
    return f"{place} = {_shown(detail['input'])}: {message}"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print an integer with thousands of digits
        return "an endless integer"
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"


def _section_at(kind: type[Section], location: tuple[int | str, ...]) -> type[Section]:
    for part in location:
        inner = _section_type(kind.model_fields[str(part)])
        assert inner is not None
        kind = inner
    return kind


def _section_type(field: FieldInfo) -> type[Section] | None:
    """The `Section` that a field holds, also when it is optional."""
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def template(kind: type[Section]) -> str:
    """Write a commented TOML file with every key of a type: its default or, if it has none, an example."""
    lines = _comment(kind.__doc__ or "")
    tables = []
    for name, field in kind.model_fields.items():
        inner = _section_type(field)
        example = field.examples[0] if field.examples else None
        if isinstance(example, dict):
            tables += ["", *_comment(field.description or ""), f"[{name}]", tomli_w.dumps(example).strip()]
        elif inner is None:
            lines += ["", *_entry(name, field)]
        else:
            tables += ["", *_comment(inner.__doc__ or ""), f"[{name}]"]
            nested = []
            for key, value in inner.model_fields.items():
                table = _section_type(value)
                if table is None:
                    tables += _entry(key, value)
                else:
                    nested += _commented_out(f"{name}.{key}", table)
            tables += nested
    return "\n".join(lines + tables) + "\n"


def _commented_out(name: str, kind: type[Section]) -> list[str]:
    """An optional nested table."""
    lines = ["", *_comment(kind.__doc__ or ""), f"# [{name}]"]
    for key, value in kind.model_fields.items():
        *comment, entry = _entry(key, value)
        lines += [*comment, f"# {entry.removeprefix('# ')}"]
    return lines


def _entry(name: str, field: FieldInfo) -> list[str]:
    value = field.examples[0] if field.examples else field.get_default(call_default_factory=True)
    assert value is not PydanticUndefined, f"{name} needs a default or an example"
    # An optional key acts differently when it is absent: its example must stay commented out.
    optional = field.default is None or (field.default == [] and field.examples)
    text = "..." if value is None else _inline(value)
    return [*_comment(field.description or ""), f"{'# ' if optional else ''}{name} = {text}"]


def _inline(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_inline(item)}' for key, item in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    return tomli_w.dumps({"key": value}).strip().removeprefix("key = ")


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), 98)]


def resolve(text: str, folder: Path) -> Path:
    """Resolve a path in a file: variables such as `${SOTTO_SHARED}` are expanded; relative to the file's folder.

    Raises:
        InputError: it names a variable that is not set.

    >>> str(resolve("records.jsonl", Path("/srv/st-mary")))
    '/srv/st-mary/records.jsonl'
    """
    missing = [name for name in re.findall(r"\$\{(\w+)\}", text) if name not in os.environ]
    if missing:
        raise InputError(f"{text}: the environment variable {missing[0]} is not set")
    filled = re.sub(r"\$\{(\w+)\}", lambda match: os.environ[match[1]], text)
    try:
        return (folder / Path(filled).expanduser()).absolute()
    except RuntimeError:
        raise InputError(f"{text}: there is no such home folder") from None
