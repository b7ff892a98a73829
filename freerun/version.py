"""The version of freerun."""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.2.0"
