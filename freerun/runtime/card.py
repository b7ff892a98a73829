"""The model card: what a bundle's README.md says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined

from freerun.config import flatten, shown

__all__ = ["model_card"]

_TEMPLATE = """\
# A sequence-to-sequence model made by freerun {{ config.freerun }}

{{ model.cell | upper }} encoder-decoder, {{ model.num_layers }} x {{ model.hidden_size }} units, \
{{ "two-directional" if model.bidirectional else "one-directional" }} encoder, \
{{ attention }}, \
{{ "{:,}".format(training.parameters) }} parameters.

    freerun predict FOLDER "some text"

## Data

Trained on {{ "{:,}".format(training.pairs) }} pairs of {{ "{:,}".format(training.sources) }} sources.

| side | tokens | normalisation | case | ids |
|---|---|---|---|---|
{% for side, codec, ids in sides -%}
| {{ side }} | {{ codec.tokens }} | {{ codec.normalisation }} | {{ codec.case }} | {{ ids }} |
{% endfor %}
A source is read {{ "from its end" if config.source.reverse else "from its beginning" }}. Longest training target: \
{{ config.length_bound.longest_target }} tokens.

## Figures on the development pairs

`.teacher`: the decoder was fed the right tokens; `.free`: its own. Intervals: 95 %, bootstrap over sources. The model \
was selected on these pairs ({{ training.evaluation.select_on }}), so figures on new data may be a little worse.

| figure | value | 95 % interval |
|---|---|---|
{% for name, value, interval in figures -%}
| {{ name }} | {{ value }} | {{ interval }} |
{% endfor %}
{% if quantised -%}
## Quantised graphs

`--precision int8` against fp32, on {{ "{:,}".format(quantised.sources) }} development sources, greedy search.

| figure | fp32 | int8 | difference | 95 % interval |
|---|---|---|---|---|
{% for name, difference in quantised.difference.items() -%}
| {{ name }} | {{ "%.4f" | format(quantised.fp32[name]) }} | {{ "%.4f" | format(quantised.int8[name]) }} \
| {{ "%+.4f" | format(difference.value) }} | {{ "%+.4f" | format(difference.low) }} to \
{{ "%+.4f" | format(difference.high) }} |
{% endfor %}
{% endif -%}
## Training

Forcing strategy: {{ strategies }}. Weights after update {{ "{:,}".format(training["update"]) }}.

| key | value |
|---|---|
{% for key, value in settings -%}
| {{ key }} | {{ value }} |
{% endfor -%}
"""


def model_card(
    config: Mapping[str, Any], metrics: Mapping[str, float | None], quantised: Mapping[str, Any] | None = None
) -> str:
    """The card of a bundle from its config.json and metrics.json, and export.json if it has one."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    training = config["training"]
    values = flatten({section: training[section] for section in ("model", "training", "evaluation")})
    phases = training["forcing"].get("phases") or [training["forcing"]]
    strategies = ", then ".join(phase["strategy"] for phase in phases)
    values |= {
        f"forcing.{prefix}{key}": value
        for number, phase in enumerate(phases, start=1)
        for prefix in ([f"phases[{number}]."] if len(phases) > 1 else [""])
        for key, value in phase.items()
    }
    settings = [(key, value if isinstance(value, str) else shown(value)) for key, value in values.items()]
    model = config["model"]
    sides = [(side, config[side], model[f"{side}_vocabulary"]) for side in ("source", "target")]
    text: str = environment.from_string(_TEMPLATE).render(
        config=config,
        quantised=quantised,
        model=model,
        training=training,
        sides=sides,
        figures=_figures(metrics),
        settings=settings,
        strategies=strategies,
        attention=_attention(model),
    )
    return text


def _attention(model: Mapping[str, Any]) -> str:
    match model["attention"]:
        case "none":
            return "no attention (fixed context)"
        case "bahdanau":
            return "Bahdanau attention"
        case score:
            return f"Luong attention ({score}{', input feeding' if model.get('input_feeding') else ''})"


def _figures(metrics: Mapping[str, float | None]) -> list[tuple[str, str, str]]:
    rows = []
    for name, value in metrics.items():
        if name.endswith((".low", ".high")):
            continue
        low, high = metrics.get(f"{name}.low"), metrics.get(f"{name}.high")
        interval = "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
        rows.append((name, _shown(value), interval))
    return rows


def _shown(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
