"""``import freerun``: every public name is documented, and its signature is the one in ``public_api.txt``.

After an intended change write it again: ``python -m tests.unit.test_public_api > tests/unit/public_api.txt``.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pytest
from pydantic import BaseModel

import freerun

STORED = Path(__file__).with_name("public_api.txt")
NAMES = [name for name in freerun.__all__ if name != "__version__"]


def members(kind: type) -> Iterator[tuple[str, object]]:
    """The public members of a class that it defines itself."""
    for name, member in vars(kind).items():
        is_member = callable(member) or isinstance(member, property | cached_property | staticmethod | classmethod)
        if is_member and not name.startswith("_"):
            yield name, member


def described(name: str) -> list[str]:
    """One line per signature of a public name."""
    value = getattr(freerun, name)
    if not inspect.isclass(value):
        return [f"{name}{inspect.signature(value)}"]
    if issubclass(value, BaseModel):  # a signature with all defaults of its sections would be endless
        return [f"class {name}({', '.join(value.model_fields)})"]
    lines = [f"class {name}{'' if issubclass(value, Exception) else inspect.signature(value)}"]
    for member, content in members(value):
        is_attribute = isinstance(content, property | cached_property)
        lines.append(f"{name}.{member}{'' if is_attribute else inspect.signature(getattr(value, member))}")
    return lines


def api() -> str:
    return "".join(f"{line}\n" for name in NAMES for line in described(name))


def test_the_signatures_are_the_stored_ones() -> None:
    assert api() == STORED.read_text()


def test_all_is_sorted_and_complete() -> None:
    assert list(freerun.__all__) == sorted(freerun.__all__)
    assert set(freerun._MODULE_OF) == set(NAMES)
    assert set(dir(freerun)) >= set(freerun.__all__)
    with pytest.raises(AttributeError, match="module 'freerun' has no attribute 'trian'"):
        _ = freerun.trian


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_and_member_is_documented(name: str) -> None:
    value = getattr(freerun, name)
    assert value.__name__ == name
    documented = [(name, value), *(members(value) if inspect.isclass(value) else [])]
    assert [each for each, content in documented if not (inspect.getdoc(content) or "").strip()] == []


def test_the_functions_name_every_argument_that_they_document() -> None:
    for name in NAMES:
        value = getattr(freerun, name)
        if inspect.isfunction(value) and "Args:" in (doc := inspect.getdoc(value) or ""):
            assert [each for each in inspect.signature(value).parameters if f"\n    {each}: " not in doc] == [], name


def test_importing_freerun_imports_nothing_else() -> None:
    code = "import sys, freerun; print([name for name in sys.modules if name.split('.')[0] in ('torch', 'numpy')])"
    code += "; print(sorted(name for name in sys.modules if name.startswith('freerun')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['freerun', 'freerun.version']"]


if __name__ == "__main__":
    sys.stdout.write(api())
