"""Compare features in a column of their own with features spelled into the source, on inflection data.

    python benchmarks/feature_columns.py DATA OUT --seeds 1 2

DATA/SET holds train.tsv and dev.tsv, whose sources end with tokens like ``<pos=V> <tense=PRS>``. The arm "spelled"
trains on these files unchanged; the arm "column" on files in which those tokens are a third column, which freerun
recognizes. Everything else is the automatic choice; ``--updates`` shortens the runs of both arms. Each run writes one
JSON file to OUT and is not repeated if the file exists. ``--table`` prints all results in OUT as Markdown and trains
nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from dev_sets import (
    FREERUN,
    command_of,
    evaluate,
    parsed,
    processor_seconds,
    results_in,
    seconds_an_update,
    word_error,
    write_result,
)

SETS = [f"inflection-2016/{name}" for name in ("finnish", "german", "hungarian", "spanish", "turkish")]
ARMS = ("spelled", "column")


def main() -> None:
    """Train the missing runs, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--updates", type=int, help="default: the automatic choice")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--name", default="", help="suffix of the results of an arm with other settings")
    args = parsed(parser, SETS)
    if args.table:
        print(table(results_in(args.out)))
        return
    for seed in args.seeds:
        for name in args.sets:
            for arm in args.arms:
                path = args.out / f"{name.replace('/', '-')}.{arm}{args.name}.{seed}.json"
                if not path.exists():
                    settings = [*args.settings, *([f"training.updates={args.updates}"] if args.updates else [])]
                    train(args.data / name, name, arm, seed, settings, path)


def train(data: Path, name: str, arm: str, seed: int, settings: Sequence[str], path: Path) -> None:
    """Train one run and record its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = data if arm == "spelled" else columns(data, Path(folder, "pairs"))
        seconds = seconds_an_update(pairs, settings, Path(folder))
        run = Path(folder, "run")
        command = command_of(pairs, run, settings, seed)
        before = processor_seconds()
        subprocess.run(command, check=True, capture_output=True)
        used = processor_seconds() - before
        figures = {f"beam {size}": evaluate(run, size) for size in (1, 5)}
        start = json.loads((run / "journal.jsonl").read_text("utf-8").splitlines()[0])
    shown = [part.replace(str(run), "RUN").replace(str(pairs), name) for part in command[len(FREERUN) :]]
    result = {
        "set": name,
        "arm": path.name.split(".")[1],
        "seed": seed,
        "command": " ".join(["freerun", *shown]),
        "updates": start["updates"],
        "parameters": start["parameters"],
        "precision": start["precision"],
        "seconds_an_update": round(seconds, 5),
        "core_minutes": round(used / 60, 2),
        "figures": figures,
    }
    write_result(path, result)


def columns(data: Path, out: Path) -> Path:
    """Write the pairs of ``data`` with the bracketed tokens of each source in a third column."""
    out.mkdir()
    for part in ("train.tsv", "dev.tsv"):
        lines = (data / part).read_text("utf-8").splitlines()
        (out / part).write_text("".join(map(as_columns, lines)), encoding="utf-8")
    return out


def as_columns(line: str) -> str:
    """Return ``source<TAB>target<TAB>features`` of a pair whose source ends with bracketed tokens."""
    source, target = line.split("\t")
    tokens = source.split()
    features = [token[1:-1] for token in tokens if token.startswith("<") and token.endswith(">")]
    letters = tokens[: len(tokens) - len(features)]
    return f"{' '.join(letters)}\t{target}\t{';'.join(features)}\n"


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return a table of sets and arms: word error rates of each seed, core-minutes, milliseconds per update."""
    arms = sorted({result["arm"] for result in results}, key=lambda arm: (not arm.startswith("spelled"), arm))
    sets = list(dict.fromkeys(result["set"] for result in results))
    lines = ["| set | " + " | ".join(arms) + " |", "|---" * (1 + len(arms)) + "|"]
    for name in sets:
        cells = [_cell([each for each in results if (each["set"], each["arm"]) == (name, arm)]) for arm in arms]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    means = [_mean([each for each in results if each["arm"] == arm]) for arm in arms]
    return "\n".join([*lines, "| mean | " + " | ".join(means) + " |"])


def _cell(runs: Sequence[dict[str, Any]]) -> str:
    if not runs:
        return ""
    beam, greedy = (", ".join(f"{word_error(run, search):.2f}" for run in runs) for search in ("beam 5", "beam 1"))
    return f"{beam} (greedy {greedy}); {_cost(runs)}"


def _mean(runs: Sequence[dict[str, Any]]) -> str:
    beam, greedy = (mean(word_error(run, search) for run in runs) for search in ("beam 5", "beam 1"))
    return f"**{beam:.2f}** (greedy {greedy:.2f}); {_cost(runs)}"


def _cost(runs: Sequence[dict[str, Any]]) -> str:
    minutes = mean(run["core_minutes"] for run in runs)
    return f"{minutes:.1f} min, {1000 * mean(run['seconds_an_update'] for run in runs):.0f} ms"


if __name__ == "__main__":
    main()
