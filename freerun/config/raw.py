"""Raw configurations: nested sections as TOML and the command line give them, before they are checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import tomli_w

from freerun.config.sections import Config
from freerun.errors import ConfigError
from freerun.files import real_path
from freerun.text import cut, shown

__all__ = [
    "absolute_paths",
    "apply_overrides",
    "changed_keys",
    "flatten",
    "merge",
    "override",
    "read_toml",
    "strategies_of",
    "to_toml",
]

_MOST_BYTES: Final = 10**7
"""Of a configuration; a device has no end."""


def read_toml(path: Path) -> dict[str, Any]:
    """The raw content of a TOML file, UTF-8 with or without a byte order mark.

    Raises:
        ConfigError: no such file, a folder, a file without end, not UTF-8, or not TOML (with line and column).
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ConfigError.single(
                path,
                f"this file has more than {_MOST_BYTES:,} bytes",
                "Expected a TOML configuration",
                "Check the path",
            )
        return tomllib.loads(content.decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError.single(path, "no such file", "Expected a TOML configuration", "Check the path") from None
    except IsADirectoryError:
        raise ConfigError.single(
            path, "this is a folder", "Expected a TOML configuration file", "Name the file in it"
        ) from None
    except OSError as error:
        raise ConfigError.single(path, f"it cannot be read ({error.strerror})", "Expected a readable file") from None
    except UnicodeDecodeError as error:
        raise ConfigError.single(
            path,
            f"byte {error.object[error.start]:#04x} at offset {error.start} is not UTF-8",
            "Expected UTF-8 text",
            "Save the file as UTF-8",
        ) from None
    except (ValueError, RecursionError) as error:  # also of a number with more digits than Python converts
        raise ConfigError.single(
            path, f"this is not TOML: {error}", "Expected lines such as key = value", "Correct that place"
        ) from None


def apply_overrides(raw: Mapping[str, Any], settings: Sequence[str], folder: Path | None = None) -> dict[str, Any]:
    """``raw`` with ``key.path=VALUE`` settings put over it; VALUE is TOML, and what does not parse is a string.

    A setting replaces the value at its key path; only a whole section is merged, key by key. Relative paths count from
    ``folder``, if given.

    Raises:
        ConfigError: not key=value, or a key path that leads through a value.
    """
    result = dict(raw)
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = [key.strip() for key in path.split(".")]
        if not equals or not all(keys) or not _is_text(path):
            raise ConfigError.single(
                f"--set {cut(setting)}",
                "this is not key.path=VALUE",
                "Expected a key path, an equals sign and a value, for example training.seed=3",
                "Write it so, without spaces or in quotes",
            )
        result = override(result, keys, _toml_value(text), f"--set {cut(setting)}", folder)
    return result


def override(
    raw: Mapping[str, Any], keys: Sequence[str], value: Any, where: str, folder: Path | None = None
) -> dict[str, Any]:
    """``raw`` with ``value`` at the key path ``keys``, as ``apply_overrides`` does it; ``where`` names who asked."""
    result = _copy(raw)
    place = result
    for depth, key in enumerate(keys[:-1], start=1):
        inner = place.setdefault(key, {})
        if not isinstance(inner, dict):
            path = cut(".".join(keys[:depth]))
            raise ConfigError.single(
                where,
                f"{path} is {shown(inner)}, a value and not a section with a key {cut(keys[depth])!r}",
                f"Expected a section where {path} is set",
                f"Change {path}, or set it whole",
            )
        place = inner
    if folder is not None:
        value = _at(absolute_paths(_nested(keys, value), folder), keys)
    below = place.get(keys[-1])
    is_section = len(keys) == 1 and isinstance(below, dict) and isinstance(value, dict)
    place[keys[-1]] = merge(below or {}, value) if is_section else value
    return result


def _nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    nested: dict[str, Any] = value
    return nested


def _at(raw: Mapping[str, Any], keys: Sequence[str]) -> Any:
    value: Any = raw
    for key in keys:
        value = value[key]
    return value


def _copy(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in raw.items()}


def _is_text(path: str) -> bool:
    """Whether this is UTF-8: what a shell passes need not be."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # also of a number with more digits than Python converts
        return text
    # a line end in the text could bring in keys of its own
    return parsed["value"] if parsed.keys() == {"value"} else text


def absolute_paths(raw: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A raw configuration whose relative paths count from ``folder``; what is no path is left for ``parse_config``."""
    result = _copy(raw)
    data, training = result.get("data"), result.get("training")
    if isinstance(data, dict):
        for key in data.keys() & {"train", "dev"}:
            value = data[key]
            if isinstance(value, dict):
                data[key] = {side: _absolute(path, folder) for side, path in value.items()}
            else:
                data[key] = _absolute(value, folder)
    if isinstance(training, dict) and "init" in training:
        training["init"] = _absolute(training["init"], folder)
    return result


def _absolute(path: Any, folder: Path) -> Any:
    """Only the folder is resolved: where the file is a link, its own name tells what is in it, not the target's."""
    if not isinstance(path, str) or not path or "\0" in path:
        return path
    try:
        place = folder / Path(path).expanduser()
        return str(real_path(place.parent) / place.name)
    except (OSError, RuntimeError):
        # no such user: reading the file will fail and say so
        return str(folder / path)


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two raw configurations as one; ``over`` wins, key by key."""
    result = _copy(under)
    for key, value in over.items():
        below = result.get(key)
        # a schedule is chosen as a whole: keys of another kind must not shine through
        whole = key in ("schedule", "position") or not (isinstance(below, dict) and isinstance(value, dict))
        result[key] = value if whole else merge(below or {}, value)
    return result


def strategies_of(raw: Mapping[str, Any]) -> list[str]:
    """The names of strategies in the section [forcing] of a raw configuration, phases included."""
    section = raw.get("forcing")
    if not isinstance(section, Mapping):
        return []
    phases = section.get("phases")
    tables = [section, *(phases if isinstance(phases, list) else [])]
    names = [table.get("strategy") for table in tables if isinstance(table, Mapping)]
    return [name for name in names if isinstance(name, str)]


def to_toml(config: Config) -> str:
    """The complete configuration as TOML, every default written out; keys without a value are left out."""
    return tomli_w.dumps(config.model_dump(exclude_none=True, mode="json"))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one flat mapping, key path -> value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The key paths at which two raw configurations differ, with both values (None where absent)."""
    before, after = flatten(old), flatten(new)
    return [
        (key, before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
