"""The names of devices: ``auto``, ``cpu``, ``cuda`` and ``cuda:N``; torch decides whether the device exists."""

from __future__ import annotations

import re
from typing import Final

from freerun.arguments import check_text
from freerun.errors import ConfigError
from freerun.text import shown

__all__ = ["DEVICE_NAMES", "DEVICE_PATTERN", "check_device_name"]

_NAME: Final = "auto|cpu|cuda(:(0|[1-9][0-9]{0,3}))?"
DEVICE_PATTERN: Final = rf"\A({_NAME})\z"
"""For pydantic, whose \\z is Python's \\Z."""
DEVICE_NAMES: Final = '"auto", "cpu", "cuda" or "cuda:N", counted from 0'


def check_device_name(name: object, location: str = "device") -> str:
    """Return the name.

    Raises:
        TypeError: not a str.
        ConfigError: no name of a device.
    """
    check_text(location, name)
    if not re.fullmatch(_NAME, str(name)):
        raise ConfigError.single(
            location, f"the value is {shown(name)}", f"Expected {DEVICE_NAMES}", "Choose one of them"
        )
    return str(name)
