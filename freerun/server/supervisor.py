"""The process that ``freerun serve`` starts: it loads models, forks workers, and replaces both.

Workers are forked after the models are loaded, so they share the memory of the weights, and one that dies is replaced
within milliseconds. All accept from one socket, which outlives each of them: clients that wait there are not lost.
When models are loaded again, new workers take over, and the old ones finish what they have begun.

Over 350 lines, because each step in the life of a worker depends on those before it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NoReturn

from freerun.errors import UserError, exit_code
from freerun.server.api_keys import ApiKeys, others_can_read, read_keys
from freerun.server.counts import CountTable
from freerun.server.http_worker import WorkerSetup, run_worker
from freerun.server.listener import open_listener, reject_new_clients
from freerun.server.received_signals import received_signals
from freerun.server.serve_settings import ServeSettings
from freerun.server.served_models import ModelLoader, ServedModel
from freerun.server.server_log import ServerLog
from freerun.streams import error_descriptor

__all__ = ["serve"]

_LOOK: Final = 1.0
"""Seconds between two looks at the models' files."""
_PATIENCE: Final = 60.0
"""Seconds that new workers have to answer."""
_OTHER_FILES: Final = 200
"""Files that a worker may have open besides its connections: those of the models, and what Python needs."""
_GRACE: Final = 5.0
"""Seconds beyond ``drain`` after which a worker is killed."""
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 5.0
"""Seconds before a worker is replaced that died right after it had started."""
_ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_SIGNALS: Final = (*_ENDING, signal.SIGHUP, signal.SIGCHLD)


@dataclass(eq=False)
class _Worker:
    """A child. ``ready`` is a pipe that has a byte when it answers; -1 afterwards."""

    process: int
    row: int
    ready: int
    began: float = field(default_factory=time.monotonic)

    @property
    def is_ready(self) -> bool:
        """Return True once it answers."""
        if self.ready >= 0 and select.select([self.ready], [], [], 0)[0]:
            answered = bool(os.read(self.ready, 1))
            os.close(self.ready)
            self.ready = -1 if answered else -2
        return self.ready == -1

    def forget(self) -> None:
        """Close the pipe of a worker that has ended."""
        if self.ready >= 0:
            os.close(self.ready)
        self.ready = -2


@dataclass(eq=False)
class _Generation:
    """Workers with the same models. ``ends`` is the time at which those that still run are killed."""

    models: Mapping[str, ServedModel]
    keys: ApiKeys | None
    workers: list[_Worker] = field(default_factory=list)
    ends: float | None = None


def serve(settings: ServeSettings) -> int:
    """Serve models until a signal ends it; return the exit code.

    Raises:
        UserError: a model or the file of keys cannot be used, or the address is not free.
    """
    return _Supervisor(settings).run()


class _Supervisor:
    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._log = ServerLog(settings.log_json)
        self._loader = ModelLoader(settings.models, settings.languages, settings.precision, settings.threads)
        # two generations at a time, and workers that were killed and not yet reaped
        self._rows = 2 * settings.workers + 2
        self._table = CountTable(self._rows, list(settings.models))
        self._counts = self._table.row(self._rows - 1)
        self._generations: list[_Generation] = []
        self._received: list[int] = []
        self._delay = 0.0
        self._start_at = 0.0
        self._lifeline = os.pipe()

    def run(self) -> int:
        with received_signals(_SIGNALS, self._received) as wakeup:
            self._wakeup = wakeup
            keys = self._keys()
            with open_listener(self._settings.host, self._settings.port) as listener:
                self._listener = listener
                self._warn_of_strangers()
                self._loader.load()
                self._allow_connections()
                self._generations = [_Generation(self._loader.models, keys)]
                self._fill(self._generations[0])
                if self._wait_until_ready(self._generations[0]):
                    self._announce(listener)
                elif not _ENDING & set(self._received):
                    self._stop(0.0)
                    raise UserError("serve", "the workers cannot start", "Expected all to answer", "See the log above")
                return self._watch()

    def _allow_connections(self) -> None:
        """Raise the limit on open files to what ``max_connections`` needs, or lower that to what is possible."""
        wanted = self._settings.max_connections + _OTHER_FILES
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < allowed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            possible = max(1, allowed - _OTHER_FILES)
            self._log.warning(
                f"only {possible:,} clients can be connected to a worker: the limit on open files is {hard}"
            )
            self._settings = replace(self._settings, max_connections=possible)

    def _keys(self) -> ApiKeys | None:
        path = self._settings.api_key_file
        if path is None:
            return None
        keys = read_keys(path)
        if others_can_read(path):
            self._log.warning(f"other users of this machine can read the keys: chmod 600 {path}")
        return keys

    def _warn_of_strangers(self) -> None:
        if self._settings.api_key_file is None and not self._settings.is_local:
            self._log.warning(
                f"listening on {self._settings.host} without keys: anyone who can connect can use this service. "
                "Set --api-key-file, or listen on 127.0.0.1 behind a proxy"
            )

    def _announce(self, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        names = ", ".join(self._loader.models)
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        runtimes = ", ".join(sorted({model.predictor.runtime for model in self._loader.models.values()}))
        self._log.info(f"serving {names} at {address}", workers=self._settings.workers, runtime=runtimes)
        if os.isatty(error_descriptor()) and not self._settings.log_json:
            self._log.info("press Ctrl-C to stop")

    # ------------------------------------------------------------------------------------------------- the main loop

    def _watch(self) -> int:
        """Replace workers and models until a signal ends the service."""
        looked = time.monotonic()
        while True:
            self._sleep(min(_LOOK, max(0.01, self._start_at - time.monotonic())) if self._start_at else _LOOK)
            signals = [self._received.pop(0) for _ in range(len(self._received))]  # more may arrive meanwhile
            for ending in _ENDING:
                if ending in signals:
                    return self._end(ending)
            self._reap_all()
            self._kill_late()
            self._fill(self._generations[-1])
            hung_up = signal.SIGHUP in signals
            if hung_up or time.monotonic() - looked >= _LOOK:
                looked = time.monotonic()
                if hung_up or self._loader.changed():
                    self._reload(all_of_them=hung_up)

    def _sleep(self, seconds: float) -> None:
        """Wait for a signal, but no longer."""
        if select.select([self._wakeup], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup, 4096)

    def _reap_all(self) -> None:
        """Find out which workers have ended, and forget generations without any."""
        for generation in self._generations:
            self._reap(generation)
        self._generations[:-1] = [each for each in self._generations[:-1] if each.workers]

    def _reap(self, generation: _Generation) -> None:
        for worker in list(generation.workers):
            process, status = os.waitpid(worker.process, os.WNOHANG)
            if process:
                generation.workers.remove(worker)
                worker.forget()
                self._table.clear_gauges(worker.row)
                if generation.ends is None:
                    self._report_death(worker, status)

    def _report_death(self, worker: _Worker, status: int) -> None:
        """Log the death of a worker; one that dies right after its start is replaced after a delay."""
        code = os.waitstatus_to_exitcode(status)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._log.failure(f"worker {worker.process} died ({how}); starting another")
        self._counts.add("replaced_workers")
        lived = time.monotonic() - worker.began
        self._delay = 0.0 if lived > 10 else min(_LONGEST_DELAY, 2 * self._delay or _FIRST_DELAY)
        self._start_at = time.monotonic() + self._delay

    def _fill(self, generation: _Generation) -> None:
        """Start the workers that a generation lacks."""
        if time.monotonic() < self._start_at:
            return
        self._start_at = 0.0
        try:
            while len(generation.workers) < self._settings.workers:
                generation.workers.append(self._forked(generation))
        except OSError as error:  # no memory, or too many processes
            self._log.failure("a worker cannot be started", error)
            self._start_at = time.monotonic() + _LONGEST_DELAY

    def _kill_late(self) -> None:
        """Kill workers whose time to finish is over by far."""
        for generation in self._generations:
            if generation.ends is not None and time.monotonic() > generation.ends:
                for worker in generation.workers:
                    os.kill(worker.process, signal.SIGKILL)

    def _forked(self, generation: _Generation) -> _Worker:
        taken = {worker.row for each in self._generations for worker in each.workers}
        taken |= {worker.row for worker in generation.workers}
        row = next(row for row in range(self._rows - 1) if row not in taken)  # the last one is the supervisor's
        ready_out, ready_in = os.pipe()
        gc.collect()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the child has handlers of its own
        process = os.fork()
        if not process:
            self._be_a_worker(generation, row, ready_in)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(ready_in)
        return _Worker(process, row, ready_out)

    def _be_a_worker(self, generation: _Generation, row: int, ready: int) -> NoReturn:
        """Run in the child, to its end."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.close(self._lifeline[1])
            setup = WorkerSetup(
                settings=self._settings,
                models=generation.models,
                keys=generation.keys,
                listener=self._listener,
                table=self._table,
                row=row,
                supervisor=self._lifeline[0],
                ready=ready,
            )
            run_worker(setup)
            code = 0
        except BaseException as error:  # noqa: BLE001 (the child must not continue as the parent)
            self._log.failure("a worker failed", error, trace=True)
            code = exit_code(error)
        finally:
            os._exit(code)

    def _wait_until_ready(self, generation: _Generation) -> bool:
        """Wait until all workers answer; return False if one dies first, or a signal ends the service."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and len(generation.workers) == self._settings.workers:
            if all(worker.is_ready for worker in generation.workers):
                return True
            if any(worker.ready == -2 for worker in generation.workers):
                return False
            if _ENDING & set(self._received):
                return False
            pipes = [worker.ready for worker in generation.workers if worker.ready >= 0]
            select.select([*pipes, self._wakeup], [], [], 0.2)
            self._sleep(0.0)
            for old in self._generations[:-1]:  # which serve meanwhile
                self._reap(old)
                self._fill(old)
        return False

    # ------------------------------------------------------------------------------------------------ new models, end

    def _reload(self, all_of_them: bool) -> None:
        """Load models again, and let new workers take over; if anything fails, the old ones stay."""
        if len(self._generations) > 1:  # one takes over at a time
            if all_of_them:
                self._received.append(signal.SIGHUP)
            return
        try:
            loaded = self._loader.loaded_again(all_of_them)
            keys = self._keys() if all_of_them else self._generations[-1].keys
        except Exception as error:  # noqa: BLE001 (whatever is wrong with new files, the old models serve)
            self._not_reloaded(error)
            return
        models = {name: model for name, (model, _) in loaded.items()}
        new = _Generation(models, keys)
        self._generations.append(new)
        self._start_at = 0.0  # without its workers it could not be seen to answer
        self._fill(new)
        old = self._generations[-2]
        if not self._wait_until_ready(new):
            if not _ENDING & set(self._received):  # otherwise all end, and finish what they have begun
                self._generations = [new, old]
                self._retire(new)
                self._not_reloaded(None)
            return
        self._loader.adopt(loaded)
        self._retire(old)
        self._counts.add("reloads", "loaded")
        self._log.info("new models took over", **{name: model.bundle.digest[:12] for name, model in models.items()})

    def _retire(self, generation: _Generation) -> None:
        """Let workers finish what they have begun: those that did not all get ready may have begun something, too."""
        generation.ends = time.monotonic() + self._settings.drain + _GRACE
        _end_workers(generation, signal.SIGTERM)

    def _not_reloaded(self, error: Exception | None) -> None:
        self._counts.add("reloads", "failed")
        is_ours = not isinstance(error, UserError)
        self._log.failure("reload failed: the old models stay in use", error, trace=is_ours)

    def _end(self, ending: int) -> int:
        """End the service: finish what runs, reject what is new."""
        self._log.info("stopping: finishing running requests")
        self._stop(self._settings.drain)
        return 0 if ending == signal.SIGTERM else 128 + ending

    def _stop(self, drain: float) -> None:
        reject_new_clients(self._listener)
        for generation in self._generations:
            _end_workers(generation, signal.SIGTERM if drain else signal.SIGKILL)
        deadline = time.monotonic() + drain + _GRACE
        for generation in self._generations:
            generation.ends = deadline
        while any(generation.workers for generation in self._generations):
            self._sleep(0.1)
            self._reap_all()
            if time.monotonic() > deadline or _ENDING & set(self._received):
                for generation in self._generations:
                    _end_workers(generation, signal.SIGKILL)


def _end_workers(generation: _Generation, how: signal.Signals) -> None:
    for worker in generation.workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.process, how)
