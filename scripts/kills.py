"""Kill training, exports and studies at random moments, resume them with the same command, and compare the results.

Every third run is a training, an export or a study. Each is killed with SIGKILL up to three times, at moments
that --seed samples from the duration of the undisturbed command, and then left alone. Its result must be byte-identical
to the undisturbed one (except for times), without partial files next to it. The trainings of a study are killed, too,
or outlive it. Nothing waits for the disk (fsync): what a killed process wrote is not lost.

Results are stored in build/kills/: rerun the same command to resume. If the sources have changed, it starts again.

Examples:
  python scripts/kills.py --count 200
  python scripts/kills.py --kind study --count 30 --seed 7

The exit code is 1 if the result of a run differs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Everything that a command needs is loaded once, here; each attempt is a fork of this process.
import onnx  # noqa: E402, F401

from freerun.cli import main as freerun_main  # noqa: E402
from freerun.lock import holder, inner_lock  # noqa: E402
from freerun.runtime.session import import_onnxruntime  # noqa: E402
from tests import killed  # noqa: E402

import_onnxruntime()

KINDS = ("training", "export", "study")
SCENES = ("training", "export in place", "export elsewhere", "study")
MAX_KILLS = 3
MODEL = """
[data]
train = "pairs.tsv"
source_tokens = "char"
target_tokens = "char"
held_out = 0.2
[model]
cell = "gru"
embedding_size = 6
hidden_size = 8
num_layers = 1
dropout = 0.2
attention = "{attention}"
[training]
updates = {updates}
batch_size = 8
threads = 1
precision = "fp32"
learning_rate = 0.02
checkpoint_every = 7
average = 2
[evaluation]
every = 10
max_sources = 8
"""
STUDY = """
base = "study-base.toml"
control = "teacher"
seeds = [1]
processes = 2
[strategies.teacher]
strategy = "teacher"
[strategies.free]
strategy = "free_running"
"""
TIMES = ("seconds", "cost")


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of a run: kills that hit it, kills after its end, and differences."""

    number: int
    seed: int
    scene: str
    version: str
    kills: int
    late: int
    differences: list[str]
    seconds: float


class Scene:
    """One kind of command, in a separate directory; ``whole`` has the undisturbed result, which took ``seconds``."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.data = folder / "data"
        place = folder / name.replace(" ", "-")
        self.whole, self.case, self.log = place / "whole", place / "case", place / "log.txt"
        shutil.rmtree(place, ignore_errors=True)
        self._begin(self.whole)
        started = time.monotonic()
        if killed.wait(self.start(self.whole)):
            raise RuntimeError(f"the undisturbed {name} failed: see {self.log}")
        self.seconds = time.monotonic() - started

    def begin(self) -> None:
        """Restore the state before the command ran."""
        shutil.rmtree(self.case, ignore_errors=True)
        self.log.unlink(missing_ok=True)
        self._begin(self.case)

    def start(self, folder: Path) -> int:
        """Start the command; returns its process id."""
        arguments = {
            "training": ["train", str(self.data / "training.toml"), "--out", str(folder / "run"), "--resume"],
            "export in place": ["export", str(folder / "run")],
            "export elsewhere": ["export", str(folder / "run"), "--out", str(folder / "bundle")],
            "study": ["study", str(self.data / "study.toml"), "--out", str(folder / "out")],
        }[self.name]
        return _fork(arguments, self.log)

    def kill_trainings(self) -> None:
        """Kill the trainings of a study, which would otherwise outlive it."""
        for run in self.case.glob("out/runs/*"):
            if holder(inner_lock(run)):
                with contextlib.suppress(OSError, ValueError, KeyError):
                    os.kill(json.loads(inner_lock(run).read_bytes())["process"], signal.SIGKILL)

    def differences(self) -> list[str]:
        """Return the differences from the undisturbed result, and leftovers."""
        left = [f"{name} is left" for name in killed.leftovers(self.case)]
        if self.name == "training":
            return killed.differences(self.case / "run", self.whole / "run") + left
        if self.name != "study":
            return _different(self.case, self.whole) + left
        found = _different(self.case / "out", self.whole / "out", ("runs", "logs", "report.html"))
        for run in sorted((self.whole / "out" / "runs").iterdir()):
            names = killed.differences(self.case / "out" / "runs" / run.name, run)
            found += [f"runs/{run.name}/{name}" for name in names]
        return found + left

    def _begin(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        if self.name.startswith("export"):
            shutil.copytree(self.data / "run", folder / "run")


def _different(folder: Path, whole: Path, without: Sequence[str] = ()) -> list[str]:
    """Return the names of files that differ, except for times; ``without`` are names at the top of both directories."""
    found, expected = (
        {
            str(path.relative_to(root)): _without_times(path)
            for path in root.rglob("*")
            if path.is_file() and path.relative_to(root).parts[0] not in without
        }
        for root in (folder, whole)
    )
    return [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]


def _without_times(path: Path) -> Any:
    content = path.read_bytes()
    has_times = path.suffix == ".json" and path.parent.name in ("out", "results")
    return _stripped(json.loads(content)) if has_times else content


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stripped(each) for key, each in value.items() if key not in TIMES}
    return [_stripped(each) for each in value] if isinstance(value, list) else value


def prepare(folder: Path) -> dict[str, Scene]:
    """Write the data, and run every command once undisturbed."""
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    texts = sorted({"".join(random.Random(number).choices("abcd", k=1 + number % 6)) for number in range(80)})
    (data / "pairs.tsv").write_text("".join(f"{text}\t{text[::-1]}\n" for text in texts))
    (data / "training.toml").write_text(MODEL.format(attention="luong", updates=60))
    (data / "study-base.toml").write_text(MODEL.format(attention="none", updates=30))
    (data / "study.toml").write_text(STUDY)
    # in this process, which thereby loads what training loads late
    with contextlib.redirect_stderr(io.StringIO()) as log, contextlib.redirect_stdout(log):
        if freerun_main(["train", str(data / "study-base.toml"), "--out", str(data / "run")]):
            raise RuntimeError(f"the model to be exported could not be trained: {log.getvalue()}")
    return {name: Scene(name, folder) for name in SCENES}


def _fork(arguments: list[str], log: Path) -> int:
    """Start a command in a child process; returns its process id."""

    def task() -> int:
        os.fsync = lambda handle: None
        return freerun_main(arguments)

    return killed.fork(task, log)


def scene_of(number: int, kinds: Sequence[str]) -> str:
    """Return the scene of a run: the kinds in turn, and both ways to export in turn."""
    kind = kinds[number % len(kinds)]
    if kind != "export":
        return kind
    return "export elsewhere" if number // len(kinds) % 2 else "export in place"


def run(scene: Scene, number: int, seed: int, version: str) -> Result:
    """Kill and resume several times, then compare."""
    moments = random.Random(f"{seed} {number}")
    started = time.monotonic()
    scene.begin()
    kills = late = 0
    for _ in range(moments.randint(1, MAX_KILLS)):
        code = killed.killed_after(scene.start(scene.case), moments.uniform(0, scene.seconds))
        if scene.name == "study" and moments.random() < 0.5:
            scene.kill_trainings()
        if code is None:
            kills += 1
        else:
            late += 1
            if code:
                break
    code = killed.wait(scene.start(scene.case))
    found = scene.differences() if code == 0 else [f"exit code {code}: {_last_line(scene.log)}"]
    return Result(
        number=number,
        seed=seed,
        scene=scene.name,
        version=version,
        kills=kills,
        late=late,
        differences=found,
        seconds=round(time.monotonic() - started, 2),
    )


def _last_line(log: Path) -> str:
    return (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing"])[-1]


# -- the journal of this script, and its table -------------------------------------------------------------------------


def sources_version() -> str:
    """Return a hash of everything that a result depends on: the package, this script, and what it compares with."""
    files = [*sorted((ROOT / "freerun").rglob("*.py")), Path(__file__), ROOT / "tests" / "killed.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def read_results(path: Path, seed: int, version: str) -> dict[int, Result]:
    """Return the results so far, by number: those of the same seed and of the same sources."""
    results = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            result = Result(**json.loads(line))
        except (TypeError, ValueError):  # a line that a stopped run left unfinished
            continue
        if (result.seed, result.version) == (seed, version):
            results[result.number] = result
    return results


def append(path: Path, result: Result) -> None:
    """Append a result on a new line, even after an unfinished one."""
    with path.open("a+b") as file:
        if file.tell() and not path.read_bytes().endswith(b"\n"):
            file.write(b"\n")
        file.write((json.dumps(asdict(result)) + "\n").encode())


def as_table(results: Sequence[Result]) -> str:
    """Return runs, kills and differences by kind of command, as a Markdown table."""
    lines = ["| command | runs | killed | after its end | seconds | as undisturbed |", "|---|---|---|---|---|---|"]
    for name in (*SCENES, "all"):
        chosen = [result for result in results if name in (result.scene, "all")]
        if chosen:
            kills, late = sum(result.kills for result in chosen), sum(result.late for result in chosen)
            same = sum(not result.differences for result in chosen)
            seconds = sum(result.seconds for result in chosen)
            lines.append(f"| {name} | {len(chosen)} | {kills} | {late} | {seconds:,.0f} | {same} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the results, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30, help="runs (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--kind", choices=KINDS, action="append", help="one kind of command only; may be repeated")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "kills", help="default: build/kills")
    options = parser.parse_args(arguments)
    kinds = options.kind or KINDS
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = str(ROOT)  # for the trainings of studies
    os.environ["OMP_NUM_THREADS"] = "1"
    version = sources_version()
    journal = folder / "results.jsonl"
    results = read_results(journal, options.seed, version)
    wanted = [number for number in range(options.count) if number not in results or not _is(results[number], kinds)]
    scenes = prepare(folder) if wanted else {}
    for number in wanted:
        result = run(scenes[scene_of(number, kinds)], number, options.seed, version)
        append(journal, result)
        results[number] = result
        print(f"{number}: {result.scene}: {'; '.join(result.differences) or 'as undisturbed'}", flush=True)
    chosen = [results[number] for number in range(options.count)]
    print(f"\n{as_table(chosen)}")
    return int(any(result.differences for result in chosen))


def _is(result: Result, kinds: Sequence[str]) -> bool:
    return result.scene == scene_of(result.number, kinds)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("kills: stopped. Run the same command again to resume.", file=sys.stderr)
        sys.exit(130)
