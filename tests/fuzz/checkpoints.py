"""Damages run directories and resumes them: the bytes of an undisturbed run, or an error that says what to do."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest.mock import patch

import torch

from freerun.commands import train as command
from freerun.commands.train_progress import ConsoleProgress
from freerun.errors import Interrupted, UserError
from freerun.experiment import run as runs
from freerun.experiment.request import TrainRequest
from freerun.files import file_hash
from freerun.training.signals import StopRequest
from tests.killed import contents, journal

CONFIG = """
[data]
train = "pairs.tsv"
source_tokens = "char"
target_tokens = "char"
held_out = 0.3
[model]
cell = "gru"
embedding_size = 3
hidden_size = 4
num_layers = 1
dropout = 0.2
[training]
updates = 12
batch_size = 6
threads = 1
precision = "fp32"
learning_rate = 0.05
journal_every = 3
checkpoint_every = 2
keep = 4
average = 3
[evaluation]
every = 3
max_sources = 4
"""
STOPS = (5, 6, 7, 8, 10, 12)
"""Updates after which a run is stopped: between checkpoints, at one, at an evaluation, at its end."""
COMPLETE = "complete"


class Checkpoints:
    """Case ``number`` damages one or two files of a run that was stopped, or is complete, and resumes it."""

    name = "checkpoints"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.case = folder / "case"
        texts = sorted({"".join(random.Random(number).choices("abc", k=1 + number % 5)) for number in range(40)})
        (folder / "pairs.tsv").write_text("".join(f"{text}\t{text[::-1]}\n" for text in texts))
        (folder / "config.toml").write_text(CONFIG)
        self.whole = folder / COMPLETE
        with _no_waiting():
            self._prepare()
        self.expected = contents(self.whole)
        self.events = journal(self.whole)

    def _prepare(self) -> None:
        """Train to the end, and to each of the stops."""
        self._train(self.whole)
        self.starts = {COMPLETE: self.whole}
        for update in STOPS:
            folder = self.starts[f"stopped at {update}"] = self.folder / f"stopped-{update}"
            with contextlib.suppress(Interrupted), _stopped_at(update):
                self._train(folder)

    def __call__(self, number: int) -> str:
        """Run a case: "resumed", "complete" or "rejected"; anything else is raised."""
        draw = random.Random(number)
        start = draw.choice([*self.starts])
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.copytree(self.starts[start], self.case)
        done = [self._damage(draw) for _ in range(draw.choice([1, 1, 1, 2, 3]))]
        before = {path.name for path in self.case.glob("checkpoints/*")}
        try:
            with _no_waiting():
                told = self._train(self.case)
        except UserError as error:
            _check_message(error)
            return "rejected"
        try:
            return self._check(told, before)
        except AssertionError as error:
            raise AssertionError(f"case {number}, {start}, {'; '.join(done)}, told {told!r}: {error}") from error

    def _train(self, folder: Path) -> str:
        """Train or resume; returns what was told."""
        request = TrainRequest(source=self.folder / "config.toml", out=folder, resume=True)
        told = io.StringIO()
        torch.set_num_threads(1)
        with (
            contextlib.redirect_stderr(told),
            contextlib.redirect_stdout(io.StringIO()),
            patch.object(runs, "tensorboard_is_installed", lambda: False),
        ):
            command.train(request)
        return told.getvalue()

    # -- damage -------------------------------------------------------------------------------------------------------

    def _damage(self, draw: random.Random) -> str:
        """Do one thing to the run; returns what."""
        kinds = (self._change, self._change, self._exchange, self._swap, self._add, self._recompute)
        return draw.choice(kinds)(draw)

    def _change(self, draw: random.Random) -> str:
        path = self._file(draw)
        content = bytearray(path.read_bytes())
        kind = draw.choice(["flip", "flip", "flip", "truncate", "delete", "overwrite", "append"])
        if kind == "flip" and content:
            bit = draw.randrange(8 * len(content))
            content[bit // 8] ^= 1 << bit % 8
        elif kind == "truncate":
            del content[draw.randrange(len(content) + 1) :]
        elif kind == "overwrite" and content:
            begin = draw.randrange(len(content))
            content[begin : begin + 16] = draw.randbytes(min(16, len(content) - begin))
        elif kind == "append":
            content += draw.randbytes(draw.randint(1, 9))
        path.unlink()
        if kind != "delete":
            path.write_bytes(content)
        return f"{kind} {path.relative_to(self.case)}"

    def _exchange(self, draw: random.Random) -> str:
        """A file of the same name from another place, or from another run."""
        path = self._file(draw)
        run = draw.choice([self.case, *self.starts.values()])
        others = [other for other in sorted(run.rglob(path.name)) if other.is_file() and other != path]
        if not others:
            return "nothing"
        other = draw.choice(others)
        shutil.copyfile(other, path)
        return f"{path.relative_to(self.case)} is now {other.relative_to(self.folder)}"

    def _swap(self, draw: random.Random) -> str:
        """Whole directories: checkpoints, bundles."""
        folders = sorted(path for path in (*self.case.glob("checkpoints/*"), self.case / "best", self.case / "last"))
        folders = [path for path in folders if path.is_dir()]
        if len(folders) < 2:
            return "nothing"
        one, two = draw.sample(folders, 2)
        kind = draw.choice(["swap", "copy", "remove", "rename"])
        if kind == "swap":
            one.rename(self.case / ".swapped")
            two.rename(one)
            (self.case / ".swapped").rename(two)
        elif kind == "copy":
            shutil.rmtree(two)
            shutil.copytree(one, two)
        elif kind == "remove":
            shutil.rmtree(one)
        else:
            one.rename(one.with_name(f"update-{draw.randrange(20):08d}-" if draw.random() < 0.3 else "update-00000099"))
        return f"{kind} {one.relative_to(self.case)} {two.relative_to(self.case)}"

    def _add(self, draw: random.Random) -> str:
        """Files that no run has."""
        folder = draw.choice([path for path in (self.case, *sorted(self.case.rglob("*"))) if path.is_dir()])
        name = draw.choice(
            [".lock", ".state.json.abcdefgh.tmp", "notes.txt", ".best.old", "update-00000042", ".DS_Store"]
        )
        path = folder / name
        if path.exists():
            return "nothing"
        if name in (".best.old", "update-00000042"):
            path.mkdir()
            (path / "state.json").write_text('{"update": 42, "scheduled": true}')
        else:
            path.write_bytes(draw.randbytes(20))
        return f"add {path.relative_to(self.case)}"

    def _recompute(self, draw: random.Random) -> str:
        """Damage in a bundle or a checkpoint, with the hashes made right again where a stranger could."""
        name = draw.choice(["best", "last"])
        config = self.case / name / "config.json"
        try:
            values = json.loads(config.read_bytes())
        except (OSError, ValueError):  # it was damaged before
            return "nothing"
        path = config.with_name(draw.choice(sorted(values["files"])))
        content = bytearray(path.read_bytes() if path.is_file() else b"new")
        bit = draw.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        values["files"][path.name] = hashlib.sha256(content).hexdigest()
        config.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n")
        return f"flip {path.relative_to(self.case)} with its hash"

    def _file(self, draw: random.Random) -> Path:
        files = sorted(path for path in self.case.rglob("*") if path.is_file())
        # checkpoints are most of the files already; the bundle and the journal get their share
        groups: dict[str, list[Path]] = {}
        for path in files:
            groups.setdefault(path.relative_to(self.case).parts[0], []).append(path)
        weights = {"checkpoints": 5, "best": 3, "last": 1, "journal.jsonl": 2}
        group = draw.choices([*groups], [weights.get(name, 1) for name in groups])[0]
        return draw.choice(groups[group])

    # -- what has to be true then -------------------------------------------------------------------------------------

    def _check(self, told: str, before: set[str]) -> str:
        if "this run is complete" in told:
            # nothing was written, so nothing was laundered; the model that a user loads is the right one, or rejected
            assert file_hash(self.case / "best/model.safetensors") == file_hash(self.whole / "best/model.safetensors")
            return "complete"
        found = contents(self.case)
        names = [name for name in self.expected if name in found and name != "config.toml"]
        wrong = [name for name in names if found[name] != self.expected[name]]
        assert not wrong, f"{', '.join(wrong)} differ"
        assert tomllib.loads(found["config.toml"].decode()) == tomllib.loads(self.expected["config.toml"].decode())
        # an older checkpoint may be missing: one that was gone before, or that was damaged, and said to be
        missing = sorted({name.split("/")[1] for name in self.expected.keys() - found.keys()})
        lost = [name for name in missing if name in before and f"{name}: " not in told]
        assert not lost, f"{', '.join(lost)} missing"
        assert "checkpoints/update-00000012/state.json" in found
        assert journal(self.case) == self.events, "the journal differs"
        return "resumed"


def _check_message(error: UserError) -> None:
    parts = {name: getattr(error, name) for name in ("where", "what", "expected", "fix")}
    empty = [name for name, text in parts.items() if not text]
    assert not empty, f"{error}: {', '.join(empty)} missing"


def _no_waiting() -> contextlib.AbstractContextManager[object]:
    """Nothing waits for the disk: no case is about a power cut."""
    return patch.object(os, "fsync", lambda handle: None)


@contextlib.contextmanager
def _stopped_at(update: int) -> Iterator[None]:
    """Training is asked to stop after this update, as by a signal."""
    request = StopRequest()
    on_update = ConsoleProgress.on_update

    def stops(progress: ConsoleProgress, done: int, metrics: Mapping[str, float]) -> None:
        if done == update:
            request.signal = 2
        on_update(progress, done, metrics)

    def requested(grace: float = 0.0) -> contextlib.AbstractContextManager[StopRequest]:
        return contextlib.nullcontext(request)

    stop: Callable[..., contextlib.AbstractContextManager[StopRequest]] = requested
    with patch.object(runs, "stop_on_signals", stop), patch.object(ConsoleProgress, "on_update", stops):
        yield
