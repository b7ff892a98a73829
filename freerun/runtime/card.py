"""The model card: a bundle's README.md."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from jinja2 import Environment, StrictUndefined

from freerun.architecture import ATTENTIONS
from freerun.config import flatten, shown

__all__ = ["model_card", "with_quantised"]

_TEMPLATE = """\
# A sequence-to-sequence model trained with freerun {{ config.freerun }}

{{ model.cell | upper }} encoder-decoder, {{ model.num_layers }} x {{ model.hidden_size }} units, \
{{ "bidirectional" if model.bidirectional else "unidirectional" }} encoder, \
{{ attention }}, \
{{ "{:,}".format(training.parameters) }} parameters.

    freerun predict DIRECTORY {% if features %}$'some text\\tFEATURES'{% else %}"some text"{% endif %}

## Data

Trained on {{ "{:,}".format(training.pairs) }} pairs of {{ "{:,}".format(training.sources) }} sources.

| side | tokens | normalisation | case | ids |
|---|---|---|---|---|
{% for side, codec, ids in sides -%}
| {{ side }} | {{ codec.tokens }} | {{ codec.normalisation }} | {{ codec.case }} | {{ ids }} |
{% endfor %}
{% if features -%}
Features are the second field of a source, after a tab, separated by "{{ features.separator }}": \
{{ "{:,}".format(model.feature_vocabulary) }} ids, encoded as a \
{{ "summary and a sequence" if model.feature_encoder == "both" else model.feature_encoder }}.

{% endif -%}
Sources are read {{ "from the end" if config.source.reverse else "from the beginning" }}. Longest training target: \
{{ config.length_bound.longest_target }} tokens.

## Metrics on the development pairs

`.teacher`: the decoder was fed the reference tokens; `.free`: its own predictions. Intervals: 95 %, bootstrap over \
sources. The model was selected on these pairs ({{ training.evaluation.select_on }}), so metrics on new data may be \
slightly worse.

| metric | value | 95 % interval |
|---|---|---|
{% for name, value, interval in metrics -%}
| {{ name }} | {{ value }} | {{ interval }} |
{% endfor %}
## Training

Forcing strategy: {{ strategies }}. Weights after update {{ "{:,}".format(training["update"]) }}.

| key | value |
|---|---|
{% for key, value in settings -%}
| {{ key }} | {{ value }} |
{% endfor -%}
"""


_SECTION = "## Quantised graphs"


def model_card(config: Mapping[str, Any], metrics: Mapping[str, float | None]) -> str:
    """Return the model card for the content of config.json and metrics.json."""
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
        model=model,
        features=config.get("features"),
        training=training,
        sides=sides,
        metrics=_metric_rows(metrics),
        settings=settings,
        strategies=strategies,
        attention=_attention(model),
    )
    return text


def with_quantised(card: str, record: Mapping[str, Any] | None) -> str:
    """Return ``card`` with its section on int8 replaced: from ``record`` (export.json), or removed if there is none."""
    lines = card.splitlines(keepends=True)
    heads = [number for number, line in enumerate(lines) if line.startswith("## ")] + [len(lines)]
    for head, end in pairwise(heads):
        if lines[head].startswith(_SECTION):
            del lines[head:end]
            break
    if record is not None:
        position = next((number for number, line in enumerate(lines) if line.startswith("## Training")), len(lines))
        lines.insert(position, _quantised_section(record))
    return "".join(lines)


def _quantised_section(record: Mapping[str, Any]) -> str:
    rows = [
        f"| {name} | {record['fp32'][name]:.4f} | {record['int8'][name]:.4f} | {difference['value']:+.4f} "
        f"| {difference['low']:+.4f} to {difference['high']:+.4f} |\n"
        for name, difference in record["difference"].items()
    ]
    return (
        f"{_SECTION}\n\n"
        f"`--precision int8` against fp32, on {record['sources']:,} development sources, greedy search.\n\n"
        "| metric | fp32 | int8 | difference | 95 % interval |\n|---|---|---|---|---|\n" + "".join(rows) + "\n"
    )


def _attention(model: Mapping[str, Any]) -> str:
    spec = ATTENTIONS[model["attention"]]
    details = [*([spec.score] if spec.score else []), *(["input feeding"] if model.get("input_feeding") else [])]
    if not spec.reads_memory:
        details = ["fixed context"]
    return f"{spec.title} ({', '.join(details)})" if details else spec.title


def _metric_rows(metrics: Mapping[str, float | None]) -> list[tuple[str, str, str]]:
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
