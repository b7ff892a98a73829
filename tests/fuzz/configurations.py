"""Odd configurations and settings: each is trained on for one update, or rejected with messages that help."""

from __future__ import annotations

import datetime
import random
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tomli_w

from freerun.config import Config, flatten
from freerun.config.study_config import StudyConfig
from freerun.errors import ConfigError, UserError
from freerun.experiment.plan import RunPlan, plan_run
from freerun.experiment.request import TrainRequest
from freerun.forcing.registry import STRATEGIES
from tests.fuzz.commands import STUDY, TINY, Workplace, in_directory
from tests.fuzz.damage import ODD_VALUES, damaged_bytes

SECTIONS = {name: list(info.annotation.model_fields) for name, info in Config.model_fields.items() if info.annotation}
FIELDS = {
    **{key: info for strategy in STRATEGIES.values() for key, info in strategy.Settings.model_fields.items()},
    **{key: i for s in Config.model_fields.values() if s.annotation for key, i in s.annotation.model_fields.items()},
}
MORE_VALUES: list[Any] = [
    *(-(2**63), 2**63 - 1, 2**64, 10**21, 16**4000, 1e-320, 1e39, -1e308, 5e-324, 1.0, 2.5, "nan", "inf", "1e3"),
    *("luong", "bahdanau", "gru", "adamw", "sgd", "bf16", "whitespace", "auto", "professor", "scheduled_sampling"),
    *(
        "../x:y",
        "a..b:C",
        "os:system",
        "no_module:Class",
        ":",
        "json:JSONDecoder",
        "pairs.tsv",
        "directory",
        "/dev/null",
    ),
    *("sentencepiece:99999999999999999999", "sentencepiece:0", "sentencepiece:²", "sentencepiece:5", "x" * 5000),
    *(datetime.date(2024, 1, 1), datetime.time(1, 2), datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)),
    *({"kind": "cosine"}, {"kind": "linear", "c": 1e308}, {"kind": "x"}, {"kind": 3}, {"source": "pairs.tsv"}),
    *([{"strategy": "teacher", "until": 1}, {"strategy": "free_running"}], [{}], [[1]], [1, 2], [2, 1], [True, 1]),
]
RAW_VALUES = [
    *("9" * 5000, "0x" + "f" * 5000, "1e999", "-nan", "+inf", "[" * 3000, "[" * 90 + "]" * 90, "'a'", "2024-01-01"),
    *("{a=" * 80 + "1" + "}" * 80, '"\\ud800"', '"\\u0000"', "\udcff", "1_000", "0o17", "01", "", " ", "="),
    *("a\nb=1", "'''"),
]
KEYS = ["", ".", "a", "kind", "until", "strategy", "phases", "schedule", "\udcff", "x" * 3000, "a b", '"a"', "é", "\0"]


class Configurations:
    """Case ``number`` changes a tiny configuration, or what is set over it; some change the file of a study."""

    name = "configurations"

    def __init__(self, folder: Path) -> None:
        self._workplace = Workplace(folder)

    def __call__(self, number: int) -> str:
        """Train on it: "done", "planned" if that would take long, or "rejected"; everything else is raised."""
        draw = random.Random(number)
        if draw.random() < 0.1:
            (self._workplace.inputs_of_case() / "odd.toml").write_bytes(_text(draw, STUDY, _study_keys()))
            result = self._workplace.attempt(["study", "odd.toml", "--out", draw.choice(["new", "study"])])
            return "done" if result.code == 0 else "rejected"
        begun = draw.random() < 0.1
        folder = self._workplace.inputs_of_case()
        strategy = draw.choice([*STRATEGIES])
        keys = _keys(strategy)
        tiny = f'{TINY}[forcing]\nstrategy = "{strategy}"\n' if draw.random() < 0.8 else TINY
        (folder / "odd.toml").write_bytes(_text(draw, tiny, keys))
        if begun:  # a run directory, whose configuration may come from anywhere
            (folder / "run" / "config.toml").write_bytes((folder / "odd.toml").read_bytes())
        subject = draw.choice(["odd.toml", "odd.toml", "odd.toml", "pairs.tsv", "tiny.toml"])
        settings = [_setting(draw, keys) for _ in range(draw.choice([0, 0, 0, 1, 2]) + (subject != "odd.toml"))]
        command = ["--resume", "--out", "run"] if begun else [subject, "--out", "new"]
        small = SMALL if subject == "pairs.tsv" else []
        with in_directory(self._workplace.case, self._workplace.folder):
            short = _short(command, [*settings, *small])
        if short is None:
            return "planned"
        settings = [*settings, *small, *short]
        result = self._workplace.attempt(["train", *command, *(part for each in settings for part in ("--set", each))])
        return "done" if result.code == 0 else "rejected"


SMALL = ["model.hidden_size=4", "model.embedding_size=3", "model.num_layers=1"]


def _short(command: list[str], settings: list[str]) -> list[str] | None:
    """Settings that make a valid configuration one update long; None for one that would take long nevertheless."""
    resumes = command[0] == "--resume"
    out = Path(command[-1])
    try:
        plan = plan_run(
            TrainRequest(
                source=None if resumes else Path(command[0]), out=out, settings=tuple(settings), resume=resumes
            )
        )
    except (UserError, ConfigError, OSError):
        return []
    if resumes:
        return [] if not _takes_long(plan) else None
    return None if _takes_long(plan) else ["training.threads=1", *_one_update(plan)]


def _one_update(plan: RunPlan) -> list[str]:
    """What sets the length."""
    return ["training.updates=1"] if plan.config.training.epochs is None else ["training.epochs=1e-9"]


def _takes_long(plan: RunPlan) -> bool:
    """Whether building the model or one update would take seconds."""
    config = plan.config
    forcing = flatten({"forcing": config.forcing.model_dump()})
    sizes = [config.model.hidden_size, config.model.embedding_size, 8 * config.model.num_layers]
    sizes += [value for value in _numbers(forcing) if isinstance(value, int) and value < 10**5]
    too_large = config.model.hidden_size > 10**5  # is told before anything is built
    return not too_large and (max(sizes) > 64 or config.training.accumulate > 4 or config.evaluation.beam_size > 100)


def _numbers(value: object) -> list[object]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in _numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in _numbers(inner)]
    return [value]


# -- changes ----------------------------------------------------------------------------------------------------------


def _keys(strategy: str) -> list[str]:
    """Key paths; of [forcing] those of one strategy."""
    settings = STRATEGIES[strategy].Settings
    known = [f"{section}.{key}" for section, keys in SECTIONS.items() for key in keys]
    return [*known, *(f"forcing.{key}" for key in settings.model_fields), *SECTIONS]


def _study_keys() -> list[str]:
    return [*StudyConfig.model_fields, "strategies.a.strategy", "strategies.a", "variants.c.model.cell"]


def _text(draw: random.Random, content: str, keys: list[str]) -> bytes:
    """A configuration with a few values changed, or with damaged text."""
    raw: dict[str, Any] = tomllib.loads(content)
    for _ in range(draw.choice([0, 1, 1, 2, 3])):
        _change(draw, raw, draw.choice(keys).split("."))
    try:
        text = tomli_w.dumps(raw)
    except (TypeError, ValueError, RecursionError):  # it holds what TOML lacks, such as null
        text = content
    text = text.replace('"RAW"', draw.choice(RAW_VALUES))
    if draw.random() < 0.1:
        text += draw.choice(text.splitlines()) + "\n"  # a key or a section twice
    encoded = text.encode("utf-8", "surrogateescape") if _is_plain(text) else text.encode("utf-8", "surrogatepass")
    return damaged_bytes(draw, encoded) if draw.random() < 0.1 else encoded


def _is_plain(text: str) -> bool:
    return all(not 0xD800 <= ord(character) < 0xE000 or 0xDC80 <= ord(character) <= 0xDCFF for character in text)


def _change(draw: random.Random, raw: dict[str, Any], path: list[str]) -> None:
    """Set, remove or move one key."""
    place: Any = raw
    for key in path[:-1]:
        place = place.setdefault(key, {}) if isinstance(place, dict) else {}
    if not isinstance(place, dict):
        return
    key = path[-1] if draw.random() < 0.95 else draw.choice(KEYS)
    match draw.randrange(12):
        case 0:
            place.pop(key, None)
        case 1 if isinstance(place.get(key), int | float):
            number = place[key]
            place[key] = draw.choice([-number, number * 10**9, float(number), str(number), [number]])
        case 2:
            place[key] = "RAW"
        case 3:
            place[key] = {draw.choice(KEYS): draw.choice(MORE_VALUES)}
        case 4 | 5 | 6:
            place[key] = draw.choice([draw.choice(ODD_VALUES), draw.choice(MORE_VALUES)])
        case _:
            place[key] = _plausible(draw, path)


def _plausible(draw: random.Random, path: list[str]) -> Any:
    """A value of the kind that this key takes, which may be out of place beside the others."""
    info = FIELDS.get(path[-1])
    if path[-1] == "strategy":
        return draw.choice([*STRATEGIES])
    if info is None:
        return draw.choice([1, 0.5, True, "char"])
    words = _words(info.annotation)
    if words:
        return draw.choice(words)
    if isinstance(info.default, bool):
        return draw.random() < 0.5
    if isinstance(info.default, float):
        return draw.choice([0.0, 0.1, 0.5, 1.0])
    return draw.choice([info.default, 1, 2, 3] if isinstance(info.default, int) else [1, 2, "char"])


def _words(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [word for inner in get_args(annotation) for word in _words(inner)]


def _setting(draw: random.Random, keys: list[str]) -> str:
    """What stands after --set."""
    odd = ".".join(draw.choices([*KEYS, "model"], k=draw.choice([1, 2, 5])))
    key = draw.choice(keys) if draw.random() < 0.95 else odd
    if draw.random() < 0.15:
        return f"{key}={draw.choice(RAW_VALUES)}".replace("\0", "")
    plausible = _plausible(draw, key.split("."))
    value = draw.choice([draw.choice(ODD_VALUES), draw.choice(MORE_VALUES), plausible, plausible, plausible])
    try:
        text = tomli_w.dumps({"value": value}).removeprefix("value = ").rstrip("\n")
    except (TypeError, ValueError):
        text = str(value)[:100] if not isinstance(value, int) else "0x" + "f" * 4000
    forms = [*[f"{key}={text}"] * 8, f"{key}{text}", f" {key} = {text} "]
    return draw.choice(forms).replace("\0", "")


__all__ = ["Configurations"]
