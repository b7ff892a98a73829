"""Ways to damage bytes and JSON values, all drawn from a ``random.Random``."""

from __future__ import annotations

import copy
import json
from typing import Any

ODD_VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    2**31,
    2**63,
    10**9,
    10**400,
    0.5,
    -0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "1",
    "abc",
    "\n",
    "a\tb",
    "\x1b[2J\x9b",
    "\ud800",
    "\u2028",
    "lstm",
    "char",
    "sentencepiece:8",
    "sentencepiece:" + "9" * 5000,
    "../secret",
    "0" * 64,
    [],
    {},
    [1],
    {"a": {}},
    [["a", "a"]],
]


def damaged_bytes(draw, content: bytes, other: bytes = b"") -> bytes:
    """Some bits flipped, bytes changed, left out, repeated, or taken from ``other``."""
    raw = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 3, 10])):
        place = draw.randrange(len(raw) + 1)
        if draw.random() < 0.3:
            place = min(place, draw.choice([8, 64, 300]))  # headers stand in front
        count = draw.choice([1, 1, 2, 4, 8, 30])
        match draw.randrange(8):
            case 0 | 1 if place < len(raw):
                raw[place] ^= 1 << draw.randrange(8)
            case 2:
                raw[place : place + count] = draw.randbytes(count)
            case 3:
                del raw[place : place + count]
            case 4:
                raw[place:place] = raw[place : place + count] * draw.choice([1, 2, 50])
            case 5:
                raw[place : place + count] = draw.choice([b"\xff", b"\0", b"\x7f"]) * count
            case 6:
                start = draw.randrange(len(other) + 1)
                raw[place : place + count] = other[start : start + count]
            case 7 if draw.random() < 0.3:
                del raw[place:]
    return bytes(raw)


def damaged_json(draw, content: bytes) -> bytes:
    """One or a few values of JSON exchanged, left out, moved or nested; NaN and half surrogate pairs among them."""
    value = json.loads(content)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        places = list(_places(value))
        if not places:
            break
        inside, key = draw.choice(places)
        match draw.randrange(6):
            case 0:
                del inside[key]
            case 1:
                inside[key] = copy.deepcopy(draw.choice(places)[0])
            case 2:
                inside[key] = _nested(draw.choice([3, 50, 500, 3000]), draw.random() < 0.5)
            case 3 if isinstance(inside, dict):
                inside[draw.choice(["", "files", "version", "x\x1b[0m", "\ud800"])] = inside.pop(key)
            case 4 if isinstance(inside[key], int | float) and not isinstance(inside[key], bool):
                inside[key] = inside[key] * draw.choice([-1, 2, 10, 1000]) + draw.choice([-1, 0, 1])
            case _:
                inside[key] = copy.deepcopy(draw.choice(ODD_VALUES))  # it may be damaged, too
    try:
        return json.dumps(value).encode()
    except (RecursionError, ValueError):  # one was put into itself, or is nested too deeply to be written
        return b'{"a":' * 3000


def _places(value: Any) -> Any:
    """(container, key) of every value in JSON."""
    waiting, seen = [value], 0
    while waiting and seen < 2000:
        inside = waiting.pop()
        for key in inside if isinstance(inside, dict) else range(len(inside)):
            seen += 1
            yield inside, key
            if isinstance(inside[key], dict | list):
                waiting.append(inside[key])


def _nested(depth: int, in_lists: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if in_lists else {"a": value}
    return value
