"""The names of devices: ``auto``, ``cpu``, ``cuda`` and ``cuda:N``; torch decides whether the device exists."""

from __future__ import annotations

import re
from typing import Final

from freerun.arguments import check_text
from freerun.errors import ConfigError
from freerun.text import shown

__all__ = ["DEVICE_NAMES", "DEVICE_PATTERN", "check_device_name"]

DEVICE_PATTERN: Final = r"\A(auto|cpu|cuda(:(0|[1-9][0-9]{0,3}))?)\z"
DEVICE_NAMES: Final = '"auto", "cpu", "cuda" or "cuda:N", counted from 0'


def check_device_name(name: object, location: str = "device") -> str:
    """Return the name.

    Raises:
        TypeError: not a str.
        ConfigError: no name of a device.
    """
    check_text(location, name)
    if not re.match(DEVICE_PATTERN.replace(r"\z", r"\Z"), str(name)):  # pydantic's name for the end of a text
        raise ConfigError.single(
            location, f"the value is {shown(name)}", f"Expected {DEVICE_NAMES}", "Choose one of them"
        )
    return str(name)
