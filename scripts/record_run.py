"""Print a run's learning curve and final metrics as one JSON object, to be kept without the run directory.

python scripts/record_run.py RUN "what was run, and on what" > benchmarks/runs/NAME.json
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

KEPT = ("update", "seconds", "best", "final", "averaged", "best_update")


def main(run: Path, note: str) -> None:
    """Read config.toml, journal.jsonl and the metrics of the best bundle."""
    events = [json.loads(line) for line in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    # where the files lay means nothing elsewhere; their hashes stand in the start event
    config["data"] = {key: value for key, value in config["data"].items() if key not in ("train", "dev")}
    curve = [
        {key: value for key, value in event.items() if key in KEPT or key.endswith((".teacher", ".free"))}
        for event in events
        if event["event"] == "evaluation"
    ]
    speeds = sorted(event["pairs_per_second"] for event in events if event["event"] == "update")
    result = {
        "note": note,
        "start": {key: value for key, value in events[0].items() if key != "config"},
        "stop": events[-1],
        "median_pairs_per_second": speeds[len(speeds) // 2] if speeds else None,
        "config": config,
        "curve": curve,
        "final": json.loads((run / "best" / "metrics.json").read_text(encoding="utf-8")),
    }
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2])
