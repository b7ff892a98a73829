"""Loads ``freerun serve`` with more than it can answer, or for a long time.

    python benchmarks/serve_load.py overload --model MODEL --words FILE [--factor 10] [--seconds 60] [--json OUT]
    python benchmarks/serve_load.py soak --model MODEL --words FILE [--minutes 20 | --hours H] [--json OUT]
    python benchmarks/serve_load.py tables OUT [OUT ...]

``overload``: requests with one text and a beam arrive at a fixed rate, whether or not former ones were answered:
``--factor`` times what the service can answer, which wrk measures before with 64 connections. Reported are statuses,
latencies from the sending of a request to the end of its answer, memory, and how long after the end of the load the
latency of a probe is at most twice its former median. A client that has ``--connections`` requests without an answer
does not send the next one, which is reported; so a rate that the service cannot even refuse shows.

``soak``: requests of every kind arrive at 70 % of the rate that 64 clients reach with them. Reported are those that
were not answered as expected, answers with other outputs than the same request had before, and memory and open files
every minute. The file of ``--json`` is written anew every minute, so a run that is killed leaves its figures.

The service has one worker on core 0, unless ``--workers`` says otherwise; the client is on core 1. Nothing else may
run. Linux, with wrk installed. ``tables`` prints the tables of former measurements.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from serve_overload import overload, overload_table
from serve_soak import soak, soak_table, write
from service_process import BEAM, conditions


def as_text(document: Mapping[str, Any]) -> str:
    """Return a measurement's tables in Markdown."""
    return overload_table(document["overload"]) if "overload" in document else soak_table(document)


def main() -> None:
    """Load a service, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="kind", required=True)
    for name in ("overload", "soak"):
        command = commands.add_parser(name)
        command.add_argument("--model", type=Path, required=True)
        command.add_argument("--words", type=Path, required=True, help="texts: the first column of this file")
        command.add_argument("--workers", type=int, default=1)
        command.add_argument("--connections", type=int, default=3500, help="at most [3500]")
        command.add_argument("--json", type=Path, help="write the figures to this file")
        if name == "overload":
            command.add_argument("--factor", type=float, default=10.0, help="of what can be answered [10]")
            command.add_argument("--seconds", type=float, default=60.0, help="of load [60]")
            command.add_argument("--timeout", type=float, default=5.0, help="of the service [5]")
            command.add_argument("--beam-size", type=int, default=BEAM)
        else:
            command.add_argument("--minutes", type=float, default=20.0)
            command.add_argument("--hours", type=float)
            command.add_argument("--calibrate", type=float, default=20.0, help="seconds to measure capacity [20]")
            command.add_argument("--minute", type=float, default=1.0, help="minutes between two samples [1]")
    commands.add_parser("tables").add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    if options.kind == "tables":
        print("\n\n".join(as_text(json.loads(each.read_text())) for each in options.files))
        return
    document = {**conditions(), "overload": overload(options)} if options.kind == "overload" else soak(options)
    write(options.json, document)
    print(as_text(document))


if __name__ == "__main__":
    main()
