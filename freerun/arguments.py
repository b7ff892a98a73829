"""Type checks of arguments that programs pass: a wrong type raises a TypeError that names the argument."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Mapping, MappingView, Set
from pathlib import Path
from typing import Any

from freerun.errors import ConfigError

__all__ = [
    "as_list",
    "as_path",
    "as_paths",
    "check_flag",
    "check_int",
    "check_items",
    "check_number",
    "check_text",
    "wrong_type",
]


def wrong_type(name: str, value: object, expected: str) -> TypeError:
    """Return the error for an argument of the wrong type."""
    what = "None" if value is None else f"{reprlib.repr(value)} ({type(value).__name__})"
    return TypeError(f"{name}: the value is {what}. Expected {expected}.")


def check_text(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a str."""
    if not isinstance(value, str):
        hint = ", for example value.decode()" if isinstance(value, bytes | bytearray | memoryview) else ""
        raise wrong_type(name, value, f"a str{hint}")


def check_int(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is an int; bool is rejected, too."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type(name, value, "an int")


def check_number(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is an int or a float; True and False are neither."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise wrong_type(name, value, "a number")


def check_flag(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise wrong_type(name, value, "True or False")


def check_items(name: str, values: object, things: str) -> None:
    """Raise TypeError unless ``values`` is an ordered iterable, such as a list or a generator.

    A str is an iterable of its characters, but is never meant as such; sets are not ordered; mappings iterate over
    their keys. The views of a mapping, such as ``items()``, are ordered.
    """
    is_set = isinstance(values, Set) and not isinstance(values, MappingView)
    if is_set or isinstance(values, str | bytes | bytearray | Mapping) or not isinstance(values, Iterable):
        raise wrong_type(name, values, f"a list or another iterable of {things}")


def as_list(name: str, values: Any, things: str) -> list[Any]:
    """Return the items of an iterable; raises TypeError as ``check_items`` does."""
    check_items(name, values, things)
    return list(values)


def as_path(name: str, value: Any) -> Path:
    """Return a path, given as str or os.PathLike.

    Raises:
        TypeError: something else.
        ConfigError: no path has this text.
    """
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise wrong_type(name, value, "a path (str or os.PathLike)")
    if not path or "\0" in path:
        what = "the path contains a NUL character" if path else "the path is empty"
        raise ConfigError.single(name, what, "Expected the path of a file or directory", "Correct the path")
    return Path(path)


def as_paths(name: str, values: Any) -> list[Path]:
    """Return paths, given as an iterable of str or os.PathLike."""
    return [as_path(f"{name}[{number}]", value) for number, value in enumerate(as_list(name, values, "paths"))]
