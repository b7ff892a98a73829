"""Odd command lines: each is carried out, or rejected with exit code 2 and a message that helps.

The commands with their arguments and options are read from the program itself, so new ones are tried without a change
here.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from freerun.cli import app
from tests.fuzz.commands import Workplace

PATHS = ["bundle", "run", "exported", "pairs.tsv", "dev.tsv", "tiny.toml", "study.toml", "directory", "missing", "-"]
HUGE = ["10", "65537", "1025", "2147483648", "9223372036854775808", "1" + "0" * 21, "9" * 5000]
NUMBERS = ["0", "1", "2", "3", "-1", "1.5", "0.5", "1e308", "-1e308", "1e999", "nan", "-nan", "inf", "-inf", "1e-320"]
ODD = [
    *("", " ", "-", "--", "---", "=", "-x", "--json", "--help", "--no-such-option", "--out", "--set", "-h"),
    *("²", "٣", "１", "0x10", "1_000", "+1", "1,2", "1;2", "true", "None", "[]", "{}", '"'),
    *("\udcff", "\ud800", "a\0b", "\0", "a\tb", "a\nb", "\r", "\x1b[2J", "\u202e", "[bold]a[/bold]", "e\u0301"),
    *("x" * 300, "y" * 5000, "/", ".", "..", "~", "~nobody", "/dev/null", "//", "a/../b", "bundle/", "run/best"),
    *("char", "sentencepiece:99999999999999999999", "os:system", "../x:y", "training.updates=1", "copy", "sort"),
]
SETTINGS = [
    *("training.seed=3", "model.cell=gru", "model.hidden_size=9223372036854775808", "training.learning_rate=nan"),
    *("forcing.strategy=free_running", "forcing.strategy=../x:y", "forcing.strategy=os:system", "a.b.c=1", "model=3"),
    *("data.target_tokens=sentencepiece:99999999999999999999", "evaluation.beam_size=" + "1" * 30, "training.seed=²"),
    *(
        "x",
        "=",
        "=1",
        "a=",
        "..=1",
        "model.\udcff=1",
        "model.cell=\udcff",
        "training.init=missing",
        "data.train=pairs.tsv",
    ),
]
TEXTS = ["a b", "c", "zz", "", "e d c b a"]
NEVER_LONG = ["--set", "training.updates=1", "--set", "training.threads=1"]
SMALL = ["--set", "model.hidden_size=4", "--set", "model.embedding_size=3", "--set", "model.num_layers=1"]


class Arguments:
    """Case ``number`` takes one of the commands and gives it arguments, most of them nearly right."""

    name = "arguments"

    def __init__(self, folder: Path) -> None:
        self._workplace = Workplace(folder)
        self._commands = dict(_commands(typer.main.get_command(app), ()))

    def __call__(self, number: int) -> str:
        """Run it: "done" or "rejected"; everything else is raised."""
        draw = random.Random(number)
        path = draw.choice([*self._commands, ("train",), ("predict",)])  # the two with most options
        result = self._workplace.attempt([*path, *self.arguments(draw, path)])
        return "done" if result.code == 0 else "rejected"

    def arguments(self, draw: random.Random, path: tuple[str, ...]) -> list[str]:
        """Arguments of a command: right ones, of which a few are then changed."""
        parts: list[list[str]] = []
        for parameter in self._commands[path]:
            if parameter.param_type_name == "argument":
                if parameter.required or draw.random() < 0.7:
                    parts.append([_value(draw, parameter)])
            elif draw.random() < 0.15:
                option = parameter.opts[0]
                parts.append([option] if parameter.is_flag else [option, _value(draw, parameter)])
        if path == ("train",) and draw.random() < 0.7:
            parts.append(["--set", draw.choice(SETTINGS)])
        for _ in range(draw.choice([0, 0, 1, 1, 1, 2, 3])):
            _mutate(draw, parts)
        arguments = [part for each in parts for part in each]
        if path == ("train",):
            arguments += NEVER_LONG + (SMALL if draw.random() < 0.8 or "tiny.toml" not in arguments else [])
        return arguments


def _commands(command: Any, path: tuple[str, ...]) -> Any:
    """The path and the parameters of every command and subcommand, and of the groups themselves."""
    yield path, [parameter for parameter in command.params if parameter.opts[0] not in ("--help", "-h")]
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, (*path, name))


def _value(draw: random.Random, parameter: Any) -> str:
    """A value that an argument or option is likely to take."""
    annotation = parameter.type_descriptor.annotation if hasattr(parameter, "type_descriptor") else str
    if get_origin(annotation) is list:
        (annotation,) = get_args(annotation)
    if get_origin(annotation) is Literal:
        return str(draw.choice(get_args(annotation)))
    if annotation is int:
        low = parameter.min if parameter.min is not None and abs(parameter.min) < 10 else 1
        return str(draw.choice([low, low + 1, 3]))
    if annotation is float:
        return draw.choice(["0", "0.5", "1", "0.9"])
    known = {
        "MODEL": ["bundle", "run", "exported"],
        "PAIRS.tsv": ["pairs.tsv", "dev.tsv"],
        "CONFIG.toml": ["study.toml", "tiny.toml"],
        "CONFIG.toml|PAIRS.tsv": ["tiny.toml", "pairs.tsv"],
        "KEY=VALUE": SETTINGS,
        "TEXT": TEXTS,
        "NAME": ["copy", "reverse", "sort"],
        "A,B": ["1,2", "2,1"],
        "FILE|-": ["dev.tsv", "-"],
    }
    return draw.choice(known.get(parameter.metavar or "", ["new", "run", "pairs.tsv"]))


def _mutate(draw: random.Random, parts: list[list[str]]) -> None:
    """One change of a list of arguments, each an option with its value or a single word."""
    odd = draw.choice([draw.choice(ODD), draw.choice(NUMBERS), draw.choice(HUGE), draw.choice(PATHS)])
    place = draw.randrange(len(parts) + 1)
    if place == len(parts) or draw.random() < 0.1:
        parts.insert(place, [odd])
        return
    part = parts[place]
    match draw.randrange(8):
        case 0:
            del parts[place]
        case 1:
            parts.append(list(part))
        case 2:
            parts.insert(draw.randrange(len(parts)), parts.pop(place))
        case 3 if len(part) == 2:
            parts[place] = [f"{part[0]}={odd}"]
        case 4 if len(part) == 2:
            parts[place] = [draw.choice([part[0], part[0][:-1], part[0].upper()]), *part[1:]]
        case _:
            part[-1] = odd


__all__ = ["Arguments"]
