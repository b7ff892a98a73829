"""Print the modules of freerun whose functions run for one training line and for one prediction.

python scripts/trace_modules.py RUN EXPORTED

RUN is a run directory, EXPORTED its exported bundle. A training line goes from a line of TSV to its loss; a prediction
goes from text to text, greedily through the compiled library and with a beam of 4 through torch. Modules are counted
when the same has run once before, so loading and compiling do not count.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import freerun
from freerun.build import build_learner, model_sizes, new_model, order_of
from freerun.config import parse_config, read_toml
from freerun.data.corpus import encode_corpus
from freerun.data.readers import read_pairs
from freerun.forcing.registry import settings_of
from freerun.runtime.bundle import read_bundle
from freerun.training.learner import Learner
from freerun.training.progress import Progress

PACKAGE = f"{Path(freerun.__file__).parent}/"


def traced(action: Callable[[], object]) -> dict[str, set[str]]:
    """Return the functions that ``action`` calls, by module, when it runs for the second time."""
    calls: dict[str, set[str]] = defaultdict(set)

    def profile(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            calls[code.co_filename.removeprefix(PACKAGE)].add(code.co_qualname.split(".<locals>")[0])

    action()
    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


def training_line(run: Path) -> Callable[[], object]:
    """Return a function that takes one line of TSV to its loss, with the configuration and vocabularies of ``run``."""
    config = parse_config(read_toml(run / "config.toml"), run / "config.toml", settings_of)
    bundle = read_bundle(run)
    learners: list[Learner] = []

    def line(directory: Path) -> object:
        pairs = read_pairs(directory / "line.tsv")
        corpus, _ = encode_corpus(pairs, bundle.source, bundle.target, 1000, 1000, "line.tsv")
        order = order_of(config.training, corpus)
        if not learners:
            sizes = model_sizes(config.model, bundle.source, bundle.target)
            learners.append(build_learner(config, new_model(config, sizes), order))
        return learners[0]._losses(learners[0]._moment(1), order.take(Progress()))

    def in_a_directory() -> object:
        with tempfile.TemporaryDirectory() as directory:
            source, target = (codec.text(codec.vocabulary.tokens([4, 5])) for codec in (bundle.source, bundle.target))
            (Path(directory) / "line.tsv").write_text(f"{source}\t{target}\n", encoding="utf-8")
            return line(Path(directory))

    return in_a_directory


def main(run: Path, exported: Path) -> None:
    """Print each trace with its number of modules, and each module's functions."""
    trained, compiled = freerun.load(run), freerun.load(exported)
    text = trained.source.text(trained.source.vocabulary.tokens([4, 5, 6]))
    beam = freerun.Beam(4)
    traces = {
        "training line": traced(training_line(run)),
        "prediction, compiled": traced(lambda: compiled.predict(text)),
        "prediction, torch, beam 4": traced(lambda: trained.predict(text, beam)),
    }
    for name, calls in traces.items():
        print(f"{name}: {len(calls)} modules")
        for module, functions in sorted(calls.items()):
            print(f"  {module:32} {', '.join(sorted(functions))}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
