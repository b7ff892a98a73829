"""``freerun data``: the built-in datasets, and the preparation of large data."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from freerun.commands.console import StatusLine, say, shown_notices
from freerun.config import (
    DataConfig,
    absolute_paths,
    apply_overrides,
    check_values,
    override,
    read_toml,
)
from freerun.config.path_patterns import is_pattern
from freerun.config.sections import Section
from freerun.data.builtin import DATASETS, make_dataset
from freerun.data.prepared import Prepared
from freerun.errors import UserError
from freerun.experiment.pairs_spec import named_files, parse_columns, value_of
from freerun.files import real_path
from freerun.preparation.choices import PrepareRequest
from freerun.preparation.prepare_pairs import prepare as run_preparation
from freerun.text import cut, duration
from freerun.threads import cores

__all__ = ["data_config", "initial_model", "list_datasets", "make", "prepare"]

_COMMAND = "freerun data prepare"


def list_datasets() -> None:
    """Print the name and description of every built-in dataset."""
    width = max(map(len, DATASETS))
    for name, dataset in DATASETS.items():
        print(f"{name:{width}s}  {dataset.description}")


def make(name: str, directory: Path, stress: bool = False, seed: int = 0) -> None:
    """Write a dataset's train.tsv, dev.tsv and test.tsv, and print their sizes."""
    for part, path in make_dataset(name, directory, stress=stress, seed=seed).items():
        with path.open(encoding="utf-8") as lines:
            print(f"{path}: {sum(1 for _ in lines):,} pairs ({part})")


# -- prepare -----------------------------------------------------------------------------------------------------------


class _DataSection(Section):
    data: DataConfig


def data_config(
    files: Sequence[Path], dev: Sequence[Path], options: dict[str, str], settings: Sequence[str]
) -> DataConfig:
    """Return the section [data] that the arguments of ``freerun data prepare`` describe.

    ``options``: the values of options, by their key in [data].

    Raises:
        UserError: something in it is wrong.
    """
    raw, name = _base(files)
    development = named_files(dev, f"{_COMMAND} --dev")
    if development is not None:
        raw = override(raw, ["data", "dev"], value_of(development), "--dev", Path.cwd())
    for key, value in options.items():
        chosen: Any = list(parse_columns(value)) if key == "columns" else value
        raw = override(raw, ["data", key], chosen, f"--{key.replace('_', '-')} {cut(value)}")
    raw = apply_overrides(raw, settings, Path.cwd())
    return check_values(_DataSection, raw, name).data


def _base(files: Sequence[Path]) -> tuple[dict[str, Any], str]:
    """Return the section [data] of a configuration, or one for files of pairs, and what messages call it."""
    if len(files) == 1 and files[0].suffix == ".toml":
        raw = absolute_paths(read_toml(files[0]), real_path(files[0].parent))
        return {"data": raw.get("data", {})}, str(files[0])
    for file in files:
        if file.suffix == ".toml":
            raise UserError(
                _COMMAND,
                f"the configuration {file} among {len(files)} files",
                "Expected a configuration alone, or files of pairs",
                "Name the configuration alone; it names its data in data.train and data.dev",
            )
    is_single = len(files) == 1 and not is_pattern(str(files[0]))  # a pattern in quotes, say
    names: Any = str(files[0]) if is_single else [str(file) for file in files]
    # the form as training without a configuration chooses it
    return absolute_paths({"data": {"normalisation": "auto", "train": names}}, Path.cwd()), _COMMAND


def initial_model(files: Sequence[Path]) -> Path | None:
    """Return the model that a configuration's training starts from, None if there is none."""
    if len(files) != 1 or files[0].suffix != ".toml":
        return None
    training = absolute_paths(read_toml(files[0]), real_path(files[0].parent)).get("training")
    init = training.get("init") if isinstance(training, dict) else None
    return Path(init) if init and isinstance(init, str) else None


def prepare(data: DataConfig, out: Path, processes: int | None, init: Path | None) -> None:
    """Prepare pairs for training, and print what was prepared and how to train on it."""
    request = PrepareRequest(data=data, out=out, processes=processes, cores=cores(), init=init)
    progress = PrepareProgress()
    with shown_notices():
        try:
            prepared, is_new = run_preparation(request, progress)
        except KeyboardInterrupt:
            say("Run the same command again to continue.")
            raise
        finally:
            progress.clear()
    if not is_new:
        say(f"{out}: these pairs are prepared already.")
    print(summary(prepared))
    say("")
    start = "" if init is None else f" --init {shlex.quote(str(init))}"
    say(f"  freerun train {shlex.quote(str(out))}{start}")


def summary(prepared: Prepared) -> str:
    """Return what a directory of prepared pairs holds."""
    manifest, counts = prepared.manifest, prepared.manifest.counts
    size = sum(entry.bytes for entry in manifest.shards) / 1e6
    source, target = (manifest.data[key] for key in ("source_tokens", "target_tokens"))
    return (
        f"{prepared.report}.\n"
        f"{counts.sources:,} distinct sources; {counts.source_tokens - counts.kept:,} source tokens ({source}), "
        f"{counts.target_tokens - counts.kept:,} target tokens ({target}).\n"
        f"{len(manifest.shards):,} shard{'' if len(manifest.shards) == 1 else 's'}, {size:,.1f} MB."
    )


class PrepareProgress:
    """Shows what a preparation is doing: rewritten in place on a terminal, else a line every half a minute."""

    def __init__(self) -> None:
        self._line = StatusLine()
        self._every = 0.5 if self._line.is_terminal else 30.0
        self._activity, self._start, self._first = "", time.perf_counter(), 0.0
        self._shown = self._start

    def __call__(self, activity: str, pairs: int, fraction: float | None) -> None:
        """Show an activity, the number of pairs that are done and, if the fraction is known, the time left."""
        now = time.perf_counter()
        if activity != self._activity:
            # what an earlier process had done took none of this one's time
            self._activity, self._start, self._first = activity, now, fraction or 0.0
        if now - self._shown < self._every:
            return
        self._shown = now
        parts = [f"{activity}: {pairs:,} pairs"]
        if fraction is not None:
            parts.append(f"{100 * min(1.0, fraction):.0f} %")
            if fraction > self._first:
                left = (now - self._start) * (1 - min(1.0, fraction)) / (fraction - self._first)
                parts.append(f"{duration(left)} left")
        self._line.show("  ".join(parts))

    def clear(self) -> None:
        """Remove the line."""
        self._line.clear()
