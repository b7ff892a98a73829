"""Raw configurations: nested sections from TOML and the command line, before validation."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import tomli_w

from freerun.config.path_patterns import absolute_pattern, is_pattern
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

_MAX_BYTES: Final = 10**7
"""Size limit of a configuration file: a device has no end."""


def read_toml(path: Path) -> dict[str, Any]:
    """Return the raw content of a TOML file, UTF-8 with or without a byte order mark.

    Raises:
        ConfigError: no such file, a directory, a file without end, not UTF-8, or not TOML (with line and column).
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError.single(
                path,
                f"this file has more than {_MAX_BYTES:,} bytes",
                "Expected a TOML configuration",
                "Check the path",
            )
        return tomllib.loads(content.decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError.single(path, "no such file", "Expected a TOML configuration", "Check the path") from None
    except IsADirectoryError:
        raise ConfigError.single(
            path, "this is a directory", "Expected a TOML configuration file", "Name a file in the directory"
        ) from None
    except OSError as error:
        raise ConfigError.single(
            path, f"the file cannot be read ({error.strerror})", "Expected a readable file", "Check the path"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError.single(
            path,
            f"byte {error.object[error.start]:#04x} at offset {error.start} is not UTF-8",
            "Expected UTF-8 text",
            "Save the file as UTF-8",
        ) from None
    except (ValueError, RecursionError) as error:  # ValueError also for a number with too many digits for Python
        raise ConfigError.single(
            path, f"this is not TOML: {error}", "Expected lines such as key = value", "Correct that line"
        ) from None


def apply_overrides(raw: Mapping[str, Any], settings: Sequence[str], directory: Path | None = None) -> dict[str, Any]:
    """Return ``raw`` overridden by ``key.path=VALUE`` settings. VALUE is TOML; if it does not parse, it is a string.

    A setting replaces the value at its key path, but a setting of a whole section is merged key by key. Relative paths
    are resolved against ``directory``, if given.

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
                "Write the setting in this form, without spaces or in quotes",
            )
        result = override(result, keys, _toml_value(text), f"--set {cut(setting)}", directory)
    return result


def override(
    raw: Mapping[str, Any], keys: Sequence[str], value: Any, origin: str, directory: Path | None = None
) -> dict[str, Any]:
    """Return ``raw`` with ``value`` at the key path ``keys``, as in ``apply_overrides``; messages name ``origin``."""
    result = _copy(raw)
    section = result
    for depth, key in enumerate(keys[:-1], start=1):
        inner = section.setdefault(key, {})
        if not isinstance(inner, dict):
            path = cut(".".join(keys[:depth]))
            raise ConfigError.single(
                origin,
                f"{path} is {shown(inner)}, a value and not a section with a key {cut(keys[depth])!r}",
                f"Expected {path} to be a section",
                f"Change {path} in the configuration, or set all of it",
            )
        section = inner
    if directory is not None:
        value = _at(absolute_paths(_nest(keys, value), directory), keys)
    former = section.get(keys[-1])
    is_section = len(keys) == 1 and isinstance(former, dict) and isinstance(value, dict)
    section[keys[-1]] = merge(former or {}, value) if is_section else value
    return result


def _nest(keys: Sequence[str], value: Any) -> dict[str, Any]:
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
    """Return True if the path can be encoded as UTF-8; a shell may pass any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # ValueError also for a number with more digits than Python converts
        return text
    # a line end in the text could add keys
    return parsed["value"] if parsed.keys() == {"value"} else text


def absolute_paths(raw: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return a raw configuration with absolute paths; values that are no paths are left to ``parse_config``."""
    result = _copy(raw)
    data, training = result.get("data"), result.get("training")
    if isinstance(data, dict):
        for key in data.keys() & {"train", "dev"}:
            value = data[key]
            if isinstance(value, dict):
                data[key] = {side: _absolute(path, directory) for side, path in value.items()}
            elif isinstance(value, list | tuple):
                data[key] = [_absolute_entry(entry, directory) for entry in value]
            else:
                data[key] = _absolute(value, directory)
    if isinstance(training, dict) and "init" in training:
        training["init"] = _absolute(training["init"], directory)
    return result


def _absolute(path: Any, directory: Path) -> Any:
    """Resolve the file's directory but not the file: a link's own suffix says what the file holds, not its target's."""
    if not isinstance(path, str) or not path or "\0" in path:
        return path
    try:
        file = directory / Path(path).expanduser()
        return str(real_path(file.parent) / file.name)
    except (OSError, RuntimeError):
        # no such user: reading the file will report that
        return str(directory / path)


def _absolute_entry(entry: Any, directory: Path) -> Any:
    """Resolve an entry of a list of files, which may be a pattern."""
    absolute = _absolute(entry, directory)
    if not isinstance(entry, str) or "\0" in entry or not is_pattern(absolute):
        return absolute
    try:
        return absolute_pattern(entry, directory)
    except RuntimeError:
        return absolute  # no such user: finding the files will report that


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two raw configurations key by key; ``over`` takes precedence."""
    result = _copy(under)
    for key, value in over.items():
        former = result.get(key)
        # a schedule is replaced as a whole: no keys of another kind may remain
        is_replaced = key in ("schedule", "position") or not (isinstance(former, dict) and isinstance(value, dict))
        result[key] = value if is_replaced else merge(former or {}, value)
    return result


def strategies_of(raw: Mapping[str, Any]) -> list[str]:
    """Return the names of the strategies in [forcing] of a raw configuration, phases included."""
    section = raw.get("forcing")
    if not isinstance(section, Mapping):
        return []
    phases = section.get("phases")
    tables = [section, *(phases if isinstance(phases, list) else [])]
    names = [table.get("strategy") for table in tables if isinstance(table, Mapping)]
    return [name for name in names if isinstance(name, str)]


def to_toml(config: Config) -> str:
    """Return the complete configuration as TOML, defaults included; keys without a value are omitted."""
    return tomli_w.dumps(config.model_dump(exclude_none=True, mode="json"))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested sections to one mapping, key path -> value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the key paths at which two raw configurations differ, with both values (None if absent)."""
    before, after = flatten(old), flatten(new)
    return [
        (key, before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
