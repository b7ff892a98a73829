"""Train variants of the automatic choice on several datasets, all for the same CPU time, and compare them.

    python benchmarks/dev_sets.py DATA OUT --sets g2p-2020/fre g2p-2020/hun --minutes 3 --seeds 1 2
        --variant luong model.attention=luong --variant bahdanau model.attention=bahdanau

DATA/SET holds train.tsv and dev.tsv. A variant is a name and the settings that ``freerun train`` gets with ``--set``.
Each variant is first timed for a few updates, and then trained for as many as the minutes allow, but not for more than
the automatic choice would make. Each run writes one JSON file to OUT and is not repeated if the file exists, so the
program can be stopped and resumed. ``--table`` prints all results in OUT as Markdown and trains nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FREERUN = [sys.executable, "-m", "freerun"]
FEW, MORE = 40, 140
"""Updates of the two runs whose difference gives the cost of an update; startup cancels out."""
SHARE_OF_UPDATES = 0.85
"""Fraction of the minutes that remains for updates, without evaluations and startup."""


def main() -> None:
    """Train the missing runs, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", nargs="+", action="append", default=[], metavar=("NAME", "KEY=VALUE"))
    parser.add_argument("--minutes", type=float, default=3.0, help="processor minutes a run")
    parser.add_argument("--updates", type=int, help="updates a run, instead of minutes")
    args = parsed(parser, sets=[])
    if args.table:
        print(table(results_in(args.out)))
        return
    for name in args.sets:
        for seed in args.seeds:
            for variant, *settings in args.variant:
                train(args.data / name, name, variant, settings, seed, args.minutes, args.updates, args.out)


def parsed(parser: argparse.ArgumentParser, sets: list[str]) -> argparse.Namespace:
    """Add the options of a comparison on datasets, ``sets`` by default; parse the command line.

    Unless only the table is wanted, prepare to train: OUT exists, and each run has one thread.
    """
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", nargs="+", default=sets)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.table:
        args.out.mkdir(parents=True, exist_ok=True)
        os.environ["OMP_NUM_THREADS"] = "1"
    return args


def results_in(out: Path) -> list[dict[str, Any]]:
    """Return the results of all finished runs."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(out.glob("*.json"))]


def train(
    data: Path,
    name: str,
    variant: str,
    settings: Sequence[str],
    seed: int,
    minutes: float,
    updates: int | None,
    out: Path,
) -> None:
    """Train one run and record its metrics, unless they exist."""
    path = out / f"{name.replace('/', '-')}.{variant}.{seed}.json"
    if path.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        if updates is None:
            seconds, most = cost_of_an_update(data, settings, Path(folder), out, f"{name.replace('/', '-')}.{variant}")
            updates = min(most, max(100, round(60 * minutes * SHARE_OF_UPDATES / seconds)))
            timed = {"minutes": minutes, "seconds_an_update": round(seconds, 5)}
        else:
            timed = {}
        run = Path(folder, "run")
        command = command_of(data, run, [*settings, f"training.updates={updates}"], seed)
        before = processor_seconds()
        subprocess.run(command, check=True, capture_output=True)
        used = processor_seconds() - before
        figures = {f"beam {size}": evaluate(run, size) for size in (1, 5)}
    shown = [part.replace(str(run), "RUN").replace(str(data), name) for part in command[len(FREERUN) :]]
    result = {
        "set": name,
        "variant": variant,
        "seed": seed,
        **timed,
        "command": " ".join(["freerun", *shown]),
        "updates": updates,
        "core_minutes": round(used / 60, 2),
        "figures": figures,
    }
    write_result(path, result)


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write the result of a run, whole or not at all."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)
    print(f"{path.name}: {word_error(result, 'beam 5'):.2f} % wrong", flush=True)


def word_error(result: dict[str, Any], search: str) -> float:
    """Return the percentage of wrong outputs of ``search``, "beam 1" or "beam 5"."""
    return 100 - 100 * float(result["figures"][search]["sequence_accuracy.free"])


def cost_of_an_update(data: Path, settings: Sequence[str], folder: Path, out: Path, name: str) -> tuple[float, int]:
    """Return the CPU seconds per update and the updates of the automatic choice; measured once for all seeds."""
    kept = out / f".cost.{name}"
    if kept.exists():
        seconds, most = kept.read_text("utf-8").split()
        return float(seconds), int(most)
    seconds = seconds_an_update(data, settings, folder)
    most = passes(folder / str(MORE))
    kept.write_text(f"{seconds} {most}", encoding="utf-8")
    return seconds, most


def seconds_an_update(data: Path, settings: Sequence[str], folder: Path) -> float:
    """Return the CPU seconds per update: the difference of two short runs, so that startup cancels out."""
    times = []
    for updates in (FEW, MORE):
        quick = ["evaluation.max_sources=20", "evaluation.every=0", f"training.updates={updates}"]
        before = processor_seconds()
        subprocess.run(command_of(data, folder / str(updates), [*settings, *quick], 1), check=True, capture_output=True)
        times.append(processor_seconds() - before)
    return (times[1] - times[0]) / (MORE - FEW)


def passes(run: Path) -> int:
    """Return the updates that the automatic choice would make on this run's data without a time limit."""
    from freerun.experiment.recipes import RECIPES, SENTENCE_VOCABULARY, SENTENCES

    config = (run / "config.toml").read_text("utf-8")
    start = json.loads((run / "journal.jsonl").read_text("utf-8").splitlines()[0])
    pairs, batch_size = start["pairs"], int(re.search(r"batch_size = (\d+)", config)[1])  # type: ignore[index]
    tokens = json.loads((run / "last" / "target_vocabulary.json").read_text("utf-8"))["tokens"]
    table = SENTENCES if len(tokens) > SENTENCE_VOCABULARY else RECIPES
    recipe = next(recipe for recipe in table if pairs <= recipe.pairs)
    return round(recipe.epochs * pairs / batch_size)


def command_of(data: Path, run: Path, settings: Sequence[str], seed: int) -> list[str]:
    """Return the command line of a run."""
    chosen = [part for setting in ("training.threads=1", *settings) for part in ("--set", setting)]
    files = [str(data / "train.tsv"), "--dev", str(data / "dev.tsv")]
    return [*FREERUN, "train", *files, "--out", str(run), "--seed", str(seed), *chosen]


def evaluate(run: Path, beam_size: int) -> dict[str, Any]:
    """Return a run's metrics on its development pairs."""
    command = [*FREERUN, "evaluate", str(run), "--beam-size", str(beam_size), "--threads", "1", "--json"]
    figures: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return figures


def processor_seconds() -> float:
    """Return the CPU seconds of all finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return a table of datasets and variants: word error rates (BLEU for sentences) of each seed, and core-minutes."""
    variants = list(dict.fromkeys(result["variant"] for result in results))
    sets = list(dict.fromkeys(result["set"] for result in results))
    lines = ["| set | " + " | ".join(variants) + " |", "|---" * (1 + len(variants)) + "|"]
    for name in sets:
        cells = [_cell([each for each in results if (each["set"], each["variant"]) == (name, v)]) for v in variants]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(runs: Sequence[dict[str, Any]]) -> str:
    """Return ``beam 5 of each seed (greedy of each), updates, core-minutes``."""
    if not runs:
        return ""
    sentences = runs[0]["set"].startswith("mt-")
    shown = {}
    for search in ("beam 5", "beam 1"):
        values = [run["figures"][search]["bleu.free"] if sentences else word_error(run, search) for run in runs]
        shown[search] = ", ".join(f"{value:.2f}" for value in values)
    minutes = sum(run["core_minutes"] for run in runs) / len(runs)
    unit = "BLEU " if sentences else ""
    return f"{unit}{shown['beam 5']} (greedy {shown['beam 1']}); {runs[0]['updates']:,} updates, {minutes:.1f} min"


if __name__ == "__main__":
    main()
