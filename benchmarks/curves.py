"""The learning curves of a study in one plot: training NLL, and free-running error on the development pairs.

Every run is a line, colored by arm, so that variation over seeds is visible next to differences between arms.

    python benchmarks/curves.py PLOT.png STUDY/runs/*
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes


def read(run: Path) -> list[dict[str, Any]]:
    """Return the events of a run's journal."""
    return [json.loads(line) for line in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()]


def draw(axes: Axes, runs: dict[str, list[dict[str, Any]]], event: str, figure: str) -> None:
    """Plot one line per run; runs are named ARM-SEED."""
    arms = sorted({name.rpartition("-")[0] for name in runs})
    for name, events in runs.items():
        arm = name.rpartition("-")[0]
        number = arms.index(arm)
        points = [(e["update"], e[figure]) for e in events if e["event"] == event and not e.get("final")]
        label = None if arm in axes.get_legend_handles_labels()[1] else arm
        axes.plot(*zip(*points, strict=True), ["-", "--", ":"][number % 3], color=f"C{number}", lw=1, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("update")
    axes.grid(alpha=0.3)


def main() -> None:
    """Read the journals and write the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders named ARM-SEED")
    args = parser.parse_args()
    runs = {run.name: read(run) for run in args.runs}
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    draw(left, runs, "update", "nll.teacher")
    left.set_title("training: NLL, nats a token, fed with right tokens", fontsize=10)
    draw(right, runs, "evaluation", "symbol_error_rate.free")
    right.set_title("development part: symbol error rate, fed with its own", fontsize=10)
    left.legend(frameon=False)
    figure.savefig(args.picture, dpi=110)


if __name__ == "__main__":
    main()
