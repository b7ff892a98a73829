"""What all pages share: templates with everything escaped, the style, figures as text."""

from __future__ import annotations

import math
from importlib import resources

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from freerun.diagnostics.estimate import Estimate

__all__ = ["number", "own_file", "shown", "template"]


def template(name: str) -> Template:
    """A template of this folder; text is escaped unless it is ``Markup``."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(str(own_file(name)))


def own_file(name: str) -> Markup:
    """A file of this folder, which is no data and needs no escaping."""
    return Markup((resources.files("freerun.report") / name).read_text(encoding="utf-8"))


def shown(estimate: Estimate) -> str:
    """``0.123 (0.110 to 0.140)``."""
    if estimate.value is None:
        return "undefined"
    interval = "" if estimate.low is None else f" ({estimate.low:.3f} to {estimate.high:.3f})"
    return f"{estimate.value:.3f}{interval}"


def number(value: float, digits: int) -> str:
    """Nothing where it is undefined."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"
