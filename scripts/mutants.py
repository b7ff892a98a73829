"""Change the code in many small ways, and see whether a test fails each time.

A mutant is one such change. A mutant that no test notices survives: a bug in that place would go unnoticed, too.
There are

- planted mutants: bugs written by hand, in tests/mutants/*.toml, with the tests that notice them;
- generated mutants: comparisons, and/or, arithmetic, constants, `not`, `.detach()`, arguments left out, options
  replaced by their defaults, random streams exchanged, min/max, any/all, guards and statements left out.

The tests run in a temporary copy; the working tree is never changed. A first run measures which test calls which
function (minutes; stored in build/mutants/, repeated only for changes) and thereby checks that all tests pass. Then
each mutant runs the tests that call its function, quick ones first, until one fails. Results are stored, too: rerun the
same command to resume after a stop or when the time is over.

Examples:
  python scripts/mutants.py --minutes 60                     planted, then generated in random order
  python scripts/mutants.py --only planted                   all planted bugs
  python scripts/mutants.py --file freerun/search/beam.py    one file
  python scripts/mutants.py --sample 50 --seed 3             50 planted and 50 generated mutants at random
  python scripts/mutants.py --record                         list new survivors in benchmarks/mutants.toml

Give each survivor a test, or a reason in benchmarks/mutants.toml. The exit code is 1 if a survivor has neither, and 2
if there is nothing to run: a planted mutant that fits no source, or a test that fails without a mutant.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from mutation.calls import SELECT, SLOW, Calls, Plan
from mutation.mutant import Mutant, digest
from mutation.operators import generate, know
from mutation.outcomes import NOTICED, Journal, Result, accepted, record
from mutation.planted import planted
from mutation.workshop import Outcome, Workshop, project_files, workshops

PACKAGES = ("forcing", "search", "studies", "diagnostics", "metrics", "training")
SUFFIXES = (".py", ".c", ".h", ".mjs")
"""Of sources; generated mutants are of Python only."""
COLUMNS = ("tried", "killed", "timeout", "survived", "untested", "accepted")
FIRST = 30
"""Most mutants fail one of the first tests, so a small number of test files is loaded first."""

READERS = {"stream": ("tests/unit/test_streams.py",)}
"""Tests that read the sources instead of calling them, by operator."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run mutants and print the results; return the exit code."""
    options = _parser().parse_args(arguments)
    root = options.root.resolve()
    try:
        sources = {name: (root / name).read_bytes() for name in project_files(root) if name.endswith(SUFFIXES)}
        mutants = _chosen(options, root, sources)
        with workshops(root, options.processes) as opened:
            run = Run(root / "build" / "mutants", sources, options, opened)
            run.measure(mutants)
            results = run.all(mutants)
    except (ValueError, RuntimeError) as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mutants: stopped. Run the same command again to resume.", file=sys.stderr)
        return 130
    return _report(options, root, sources, mutants, results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the project (default: this one)")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no mutant after this time (measuring is not counted)"
    )
    parser.add_argument("--only", choices=("planted", "generated"), help="one kind of mutants (default: both)")
    parser.add_argument("--file", action="append", metavar="PATH", help="mutants of this source only; may be repeated")
    parser.add_argument(
        "--tests", action="append", metavar="PATH", help="run the tests below this path only; may be repeated"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="at most N mutants of each kind, drawn with --seed")
    parser.add_argument("--seed", type=int, default=0, help="of the sample, and of the order (default: 0)")
    parser.add_argument("--processes", type=int, default=1, help="copies that run tests at a time (default: 1)")
    parser.add_argument(
        "--test-seconds", type=float, default=20.0, help="tests for a generated mutant, in seconds (default: 20)"
    )
    parser.add_argument("--record", action="store_true", help="append new survivors to benchmarks/mutants.toml")
    return parser


def _chosen(options: argparse.Namespace, root: Path, sources: dict[str, bytes]) -> list[Mutant]:
    """Return the mutants to try. Their order is random but fixed, so that a part of a run is a fair sample."""
    known = know({name: text for name, text in sources.items() if name.startswith("freerun/")})
    files = [name for name in sources if name.split("/")[0] == "freerun" and name.split("/")[1] in PACKAGES]
    kinds = {
        "planted": planted(root),
        "generated": [mutant for name in files for mutant in generate(name, sources[name], known)],
    }
    chosen = []
    for kind, mutants in kinds.items():
        if options.only in (None, kind):
            of_files = [mutant for mutant in mutants if not options.file or mutant.file in options.file]
            chosen += sorted(of_files, key=lambda mutant: digest(options.seed, mutant.id))[: options.sample]
    return chosen


class Run:
    """Runs mutants in workshops, and remembers calls and results in ``folder``."""

    def __init__(
        self, folder: Path, sources: dict[str, bytes], options: argparse.Namespace, opened: list[Workshop]
    ) -> None:
        self._sources, self._options = sources, options
        folder.mkdir(parents=True, exist_ok=True)
        self._calls = Calls(opened[0].path, folder / "calls.json")
        self._journal = Journal(folder / "results.jsonl")
        self._end = float("inf")
        self._files: list[str] = []
        self._free: SimpleQueue[Workshop] = SimpleQueue()
        for workshop in opened:
            self._free.put(workshop)

    def measure(self, mutants: list[Mutant]) -> None:
        """Measure the calls of the tests that these mutants may need, and check that they pass."""
        named = {test.partition("::")[0] for mutant in mutants for test in mutant.tests}
        generated = any(not mutant.tests for mutant in mutants)
        paths = tuple(self._options.tests or ["tests"])
        self._files = [file for file in self._calls.test_files() if generated and file.startswith(paths)]
        stale = self._calls.stale(sorted(named.union(self._files)))
        with ThreadPoolExecutor(self._options.processes) as pool:
            for number, file in enumerate(pool.map(self._measure, stale), start=1):
                print(f"measured {file} ({number} of {len(stale)})", flush=True)

    def _measure(self, file: str) -> str:
        self._in_workshop(partial(self._calls.measure, file))
        return file

    def all(self, mutants: list[Mutant]) -> dict[str, Result]:
        """Try every mutant while there is time; return the results by id."""
        results: dict[str, Result] = {}
        self._end = time.monotonic() + 60 * self._options.minutes
        with ThreadPoolExecutor(self._options.processes) as pool:
            try:
                for mutant, result in zip(mutants, pool.map(self._one, mutants), strict=True):
                    if result is not None:
                        results[mutant.id] = result
                        print(f"{len(results)} of {len(mutants)}: {result.kind:8} {mutant.id}", flush=True)
            finally:
                self._end = 0.0  # after an error the mutants in the queue are not begun
        return results

    def _one(self, mutant: Mutant) -> Result | None:
        """Return the result of one mutant, of an earlier run if nothing changed, or nothing when the time is over."""
        source = self._sources[mutant.file]
        budget = self._options.test_seconds
        plan = self._calls.plan(self._files, mutant.file, mutant.scope, budget)
        files = {test.partition("::")[0] for test in mutant.tests} or set(plan.files)
        changed = digest(mutant.apply(source))
        known = self._journal.find(mutant.id, changed)
        if known is not None and not self._is_valid(known, files, budget):
            known = None
        if known is not None or time.monotonic() >= self._end:
            return known
        outcome = self._in_workshop(partial(_try, mutant, source, self._batches(mutant, files, plan)))
        kinds = {"passed": "survived", "failed": "killed", "none": "untested"}
        kind = kinds.get(outcome.kind, outcome.kind)
        tests = self._calls.version(_files_behind(outcome.failed, files))
        result = Result(
            id=mutant.id,
            source=changed,
            tests=tests,
            kind=kind,
            failed=outcome.failed,
            budget=budget,
            seconds=round(outcome.seconds, 2),
        )
        self._journal.append(result)
        return result

    def _is_valid(self, result: Result, files: set[str], budget: float) -> bool:
        """Return True if the tests behind a result are unchanged; survivors depend on the budget, too."""
        has_budget = result.kind in NOTICED or result.budget >= budget
        return has_budget and result.tests == self._calls.version(_files_behind(result.failed, files))

    def _batches(self, mutant: Mutant, files: set[str], plan: Plan) -> list[Callable[[Workshop], Outcome]]:
        """Return the pytest runs for a mutant, to be done until one fails."""
        if mutant.tests:
            limits = self._calls.limits(files)
            # An entry may name slow tests only.
            return [partial(Workshop.run, args=[*mutant.tests, *which], limits=limits) for which in (SELECT, SLOW)]
        readers = [file for file in READERS.get(mutant.id.split(":")[2], ()) if file in self._files]
        first = [partial(Workshop.run, args=readers, limits=plan.limits)] if readers else []
        parts = (plan.callers[:FIRST], plan.callers[FIRST:], plan.others)
        return first + [partial(_run_items, items=items, limits=plan.limits) for items in parts if items]

    def _in_workshop(self, task: Callable[[Workshop], Outcome]) -> Outcome:
        workshop = self._free.get()
        try:
            return task(workshop)
        finally:
            self._free.put(workshop)


def _files_behind(failed: str, files: set[str]) -> set[str]:
    """Return the test files that a result depends on: that of the failed test, or all."""
    return {failed.partition("::")[0]} if failed else files


def _run_items(workshop: Workshop, items: Sequence[str], limits: dict[str, float]) -> Outcome:
    files = list(dict.fromkeys(item.partition("::")[0] for item in items))
    seconds = 60 + 20 * sum(limits[item] for item in items)
    return workshop.run([*files, *SELECT], items=items, limits=limits, seconds=seconds)


def _try(
    mutant: Mutant, source: bytes, batches: Iterable[Callable[[Workshop], Outcome]], workshop: Workshop
) -> Outcome:
    """Run batches of tests against a mutant until one does not pass."""
    kind, failed, seconds = "none", "", 0.0
    with workshop.mutated(mutant, source):
        for batch in batches:
            outcome = batch(workshop)
            seconds += outcome.seconds
            if outcome.kind != "none":
                kind, failed = outcome.kind, outcome.failed
            if kind not in ("none", "passed"):
                break
    if mutant.tests and kind in ("none", "error"):
        raise RuntimeError(f"{mutant.id}: pytest cannot run {list(mutant.tests)}. Correct the names:\n{workshop.log()}")
    # Tests that cannot even start have noticed a generated mutant: they did start without it.
    return Outcome("failed" if kind == "error" else kind, failed, seconds)


def _report(
    options: argparse.Namespace,
    root: Path,
    sources: dict[str, bytes],
    mutants: list[Mutant],
    results: dict[str, Result],
) -> int:
    """Print survivors and a table by package; return 1 if a survivor has no reason."""
    path = root / "benchmarks" / "mutants.toml"
    reasons = accepted(path)
    survivors = [m for m in mutants if m.id in results and results[m.id].kind not in NOTICED]
    open_ones = [(m, m.diff(sources[m.file])) for m in survivors if m.id not in reasons]
    for mutant, diff in open_ones:
        print(f"\n{results[mutant.id].kind}: {mutant.id}\n{diff}")
    rows: dict[str, Counter[str]] = {}
    for mutant in mutants:
        if mutant.id in results:
            kind = results[mutant.id].kind
            is_accepted = kind not in NOTICED and mutant.id in reasons
            rows.setdefault(mutant.package, Counter()).update(["tried", kind, *["accepted"] * is_accepted])
    print(f"\n{'':12}" + "".join(f"{column:>10}" for column in COLUMNS))
    for package, counts in [*sorted(rows.items()), ("all", sum(rows.values(), Counter()))]:
        print(f"{package:12}" + "".join(f"{counts[column]:10}" for column in COLUMNS))
    if len(results) < len(mutants):
        print(f"{len(mutants) - len(results)} mutants are left: run the same command again to go on.")
    if options.record:
        print(f"{record(path, open_ones)} survivors added to {path.relative_to(root)}.")
    _name_outdated(options, mutants, results, reasons)
    return int(bool(open_ones))


def _name_outdated(
    options: argparse.Namespace, mutants: list[Mutant], results: dict[str, Result], reasons: dict[str, str]
) -> None:
    """Print accepted survivors that a test notices now, or that a whole run does not know."""
    known = {mutant.id for mutant in mutants}
    is_whole = not (options.only or options.file or options.sample)
    for name in reasons:
        if name in results and results[name].kind in NOTICED:
            print(f"{name}: accepted, but a test notices it now. Take it out of the list.")
        elif is_whole and name not in known:
            print(f"{name}: accepted, but there is no such mutant. Take it out of the list.")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
