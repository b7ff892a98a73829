"""What measurements of ``freerun serve`` share: a service in processes of its own, the load of wrk, and hardware."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SERVER_CORE, CLIENT_CORE = 0, 1
BEAM = 5
MODEL = "model"
PREDICT = f"/v1/models/{MODEL}/predict"
SCORE = f"/v1/models/{MODEL}/score"
PACKAGES = ("freerun", "uvicorn", "starlette", "httptools", "numpy")
MEBIBYTE = 2**20
QUANTILES = {"median": 0.5, "90 %": 0.9, "99 %": 0.99, "99.9 %": 0.999, "longest": 1.0}


# -- processes ---------------------------------------------------------------------------------------------------------


def pin(core: int) -> None:
    """Let this process run on one core only, if the machine has more."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


def on_core(core: int | None) -> list[str]:
    """Return the beginning of a command that runs on one core only; None: on all."""
    if core is None:
        return []
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "--cpu-list", str(cores[core % len(cores)])]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Service:
    """A program that listens on ``port``, ended by ``close``. Its log is ``log``, a file."""

    def __init__(self, arguments: Sequence[str], core: int | None, port: int) -> None:
        self.port = port
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log", prefix="service-")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*on_core(core), sys.executable, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=self.log,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._wait()

    def _wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.get("/live")
                return
            time.sleep(0.05)
        sys.exit(f"the service does not answer: {Path(self.log.name).read_text()}")

    def get(self, path: str) -> bytes:
        """Return what GET answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            content: bytes = answer.read()
            return content

    def post(self, path: str, values: Any) -> Any:
        """Return what POST with this JSON answers."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(values).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    @property
    def processes(self) -> list[int]:
        """The program's process and its children, which are the workers."""
        return [self.process.pid, *children(self.process.pid)]

    def cpu_seconds(self) -> float:
        """Return the CPU time of all processes so far, in their code and in the kernel."""
        return sum(cpu_seconds(each) for each in self.processes)

    def close(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


@contextlib.contextmanager
def freerun_service(
    models: Mapping[str, Path], *options: str, core: int | None = SERVER_CORE, port: int = 0
) -> Iterator[Service]:
    """Run ``freerun serve`` within the block."""
    port = port or free_port()
    named = [f"{name}={path}" for name, path in models.items()]
    service = Service(["-m", "freerun", "serve", *named, "--port", str(port), *options], core, port)
    try:
        yield service
    finally:
        service.close()


def children(process: int) -> list[int]:
    """Return the children of a process."""
    try:
        return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process so far, in ticks of 10 ms; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mebibytes(process: int) -> float:
    """Return the resident memory of a process, 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE


def open_files(process: int) -> int:
    """Return the number of open files of a process, 0 if it has ended."""
    try:
        return len(os.listdir(f"/proc/{process}/fd"))
    except OSError:
        return 0


# -- wrk ---------------------------------------------------------------------------------------------------------------

_LUA = """
local bodies, requests, n = {bodies}, {{}}, 0
function init(args)
  for number, body in ipairs(bodies) do
    requests[number] = wrk.format("{method}", "{path}", {{["Content-Type"] = "application/json"}}, body)
  end
end
function request()
  n = n % #requests + 1
  return requests[n]
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nJSON {{"requests": %d, "seconds": %f, "median_ms": %f, "p99_ms": %f, "failed": %d}}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def wrk(
    service: Service, path: str, bodies: Sequence[str], connections: int, seconds: float, core: int | None = CLIENT_CORE
) -> dict[str, float]:
    """Let wrk send the bodies in turn (GET if there are none); return what it measured.

    Added are requests per second, and the service's CPU time per request in microseconds.
    """
    listed = "{" + ", ".join(_quoted(body) for body in bodies or [""]) + "}"
    script = _LUA.format(bodies=listed, method="POST" if bodies else "GET", path=path)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        before = service.cpu_seconds()
        load = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "60s", "-s", file.name]
        command = [*on_core(core), "wrk", *load, f"http://127.0.0.1:{service.port}"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        cpu = service.cpu_seconds() - before
    figures: dict[str, float] = json.loads(output.rpartition("JSON ")[2])
    number = max(1.0, figures["requests"])
    return {**figures, "per_second": figures["requests"] / figures["seconds"], "cpu_us": 1e6 * cpu / number}


def _quoted(text: str) -> str:
    """Return an ASCII text in quotes as Lua reads it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


# -- conditions of a measurement ---------------------------------------------------------------------------------------


def conditions() -> dict[str, Any]:
    """Return the command, the date, versions and hardware."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _output_of("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "wrk": next(iter(_output_of("wrk", "--version").splitlines()), ""),
        "kernel": platform.release(),
        "cpu": cpus[0].partition(":")[2].strip() if cpus else platform.machine(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
    }


def _output_of(*command: str) -> str:
    """Return what a command prints; wrk prints its version and ends with 1."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def words_of(path: Path, number: int) -> list[str]:
    """Return the first different words of a file's first column."""
    lines = path.read_text("utf-8").splitlines()
    return list(dict.fromkeys(line.partition("\t")[0] for line in lines if line))[:number]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return the quantiles of seconds in milliseconds."""
    ordered = sorted(values)
    return {
        name: round(1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))], 2)
        for name, part in QUANTILES.items()
        if ordered
    }


def memory(service: Service) -> dict[str, float]:
    """Return the resident MiB of each process: the supervisor's first, then the workers'."""
    return {str(process): round(resident_mebibytes(process), 2) for process in service.processes}


def core_of(options: argparse.Namespace) -> int | None:
    """Return the core of the service; several workers may run on all."""
    return SERVER_CORE if options.workers == 1 else None
