"""Parts that all pages share: escaping templates, the style, and numbers as text."""

from __future__ import annotations

import math
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from freerun.diagnostics.estimate import Estimate

__all__ = ["number", "own_file", "shown", "template"]


def template(name: str) -> Template:
    """Return a template of this package; text is escaped unless it is ``Markup``."""
    loader = FunctionLoader(lambda file: str(own_file(file)))
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, loader=loader).get_template(name)


def own_file(name: str) -> Markup:
    """Return a file of this package, which needs no escaping."""
    return Markup((resources.files("freerun.report") / name).read_text(encoding="utf-8"))


def shown(estimate: Estimate) -> str:
    """Return for example ``0.123 (0.110 to 0.140)``."""
    if estimate.value is None:
        return "undefined"
    interval = "" if estimate.low is None else f" ({estimate.low:.3f} to {estimate.high:.3f})"
    return f"{estimate.value:.3f}{interval}"


def number(value: float, digits: int) -> str:
    """Return a number as text; the empty string for NaN."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"
