"""``freerun predict``: print one output per source text, in input order."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from freerun.commands.console import say
from freerun.commands.output import open_output
from freerun.commands.unknown_feature_counts import UnknownFeatures
from freerun.data.codec import Codec
from freerun.data.features import FeatureCodec
from freerun.data.readers import read_texts
from freerun.data.source_lines import SourceLine, read_sources, split_line
from freerun.data.unknown_tokens import count_tokens, named_tokens
from freerun.errors import DataError, UserError
from freerun.loading import Mean, Precision, Runtime, load
from freerun.runtime.prediction import Prediction, empty_prediction
from freerun.runtime.predictor import WINDOW, Predictor, windows
from freerun.search.methods import Search
from freerun.streams import binary_input, is_terminal
from freerun.text import forbidden_character, json_line, lone_surrogate, one_line

__all__ = ["PredictRequest", "predict"]


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """The arguments of ``freerun predict``.

    ``many`` prints every hypothesis with rank and score. ``line_buffered`` answers each text before the next is read.
    """

    model: Path
    texts: Sequence[str]
    search: Search
    input: str | None = None
    output: Path | None = None
    prefix: str = ""
    max_length: int | None = None
    ensemble: Sequence[Path] = ()
    mean: Mean = "arithmetic"
    threads: int = 0
    runtime: Runtime | None = None
    precision: Precision = "fp32"
    device: str = "cpu"
    many: bool = False
    attention: bool = False
    json: bool = False
    line_buffered: bool = False


def predict(request: PredictRequest) -> None:
    """Predict every text, and write one line each, or one per hypothesis if several are requested.

    Raises:
        UserError: no texts, bad texts, a bundle that cannot be used.
    """
    _check_texts(request)
    predictor = load(
        request.model,
        ensemble=request.ensemble,
        mean=request.mean,
        threads=request.threads,
        max_length=request.max_length,
        runtime=request.runtime,
        precision=request.precision,
        device=request.device,
    )
    texts = _texts(request, predictor.source.features)
    if request.attention:
        predictor.check_attention()  # before the output is opened
    stats = PredictionStats(predictor.source)
    with open_output(request.output) as out:
        for prediction in _predictions(predictor, texts, request):
            stats.add(prediction)
            out.write(_shown(prediction, request))
            if request.line_buffered:
                out.flush()
    stats.report()


def _check_texts(request: PredictRequest) -> None:
    """Check, before a model is loaded, that there are texts from one place."""
    if request.texts and request.input is not None:
        raise UserError("predict", "both texts and --input are given", "Expected one of the two", "Leave one out")
    for number, text in enumerate(request.texts, 1):
        _check_argument(text, number, allowed="\t")  # which separates features, if the model has any
    if not request.texts and request.input is None and is_terminal(sys.stdin):
        raise UserError(
            "predict",
            "no texts",
            "Expected texts as arguments, --input FILE, or lines on standard input",
            "For example: freerun predict MODEL 'some text'",
        )


def _texts(request: PredictRequest, features: FeatureCodec | None) -> Iterable[SourceLine]:
    """Return the texts of the arguments, else of --input, else of standard input; with ``features``, in pairs."""
    if request.texts and features is not None:
        fix = rf"Add a tab and the features; in bash, for example, $'source\tone{features.separator}two'"
        return [split_line(text, f"text {number}", features, fix) for number, text in enumerate(request.texts, 1)]
    if request.texts:
        for number, text in enumerate(request.texts, 1):
            _check_argument(text, number)
        return request.texts
    path: Path | BinaryIO = binary_input() if request.input in (None, "-") else Path(request.input)
    name = str(path) if isinstance(path, Path) else "standard input"
    return read_texts(path, name, say) if features is None else read_sources(path, name, features, say)


def _check_argument(text: str, number: int, allowed: str = "") -> None:
    if name := forbidden_character(text, allowed):
        what = f"{text!r} has {name} in it"
        raise DataError(f"text {number}", what, "Expected one line of plain text", "Replace it by a space")
    if lone_surrogate(text):
        raise DataError(f"text {number}", f"{text!r} is not valid UTF-8", "Expected UTF-8 text")


def _predictions(predictor: Predictor, texts: Iterable[SourceLine], request: PredictRequest) -> Iterator[Prediction]:
    """Yield one prediction per text; an empty line gives an empty line, whatever the model would predict."""
    empty = empty_prediction(predictor.source.features is not None)
    for window in windows(enumerate(texts), 1 if request.line_buffered else WINDOW):
        rows = [row for row, text in window if text]
        nonempty = [text for _, text in window if text]
        predictions = iter(
            predictor.predict_batch(nonempty, request.search, request.prefix, rows, attention=request.attention)
            if nonempty
            else ()
        )
        for _, text in window:
            yield next(predictions) if text else empty


def _shown(prediction: Prediction, request: PredictRequest) -> str:
    if request.json:
        return json_line(prediction.as_json()) + "\n"
    if request.many:
        lines = [f"{rank}\t{h.score:.6f}\t{one_line(h.text)}\n" for rank, h in enumerate(prediction.hypotheses, 1)]
        return "".join(lines) + "\n"
    return one_line(prediction.text) + "\n"


class PredictionStats:
    """Counts of unknown source tokens, unknown features and truncated outputs."""

    def __init__(self, source: Codec) -> None:
        self._source = source
        self._unknown: Counter[str] = Counter()
        self._features = UnknownFeatures(source.features)
        self._texts = self._truncated = 0

    def add(self, prediction: Prediction) -> None:
        """Count one prediction."""
        self._texts += 1
        self._truncated += any(hypothesis.truncated for hypothesis in prediction.hypotheses)
        count_tokens(self._unknown, prediction.unknown)
        self._features.add(prediction.unknown_features)

    def report(self) -> None:
        """Print warnings on standard error, if there is anything to report."""
        if self._unknown:
            say(self._about_unknown())
        self._features.report()
        if self._truncated:
            say(
                f"warning: {self._truncated:,} of {self._texts:,} inputs have an output that hit the length bound and "
                "was truncated: the model got stuck in a loop. --max-length sets another bound."
            )

    def _about_unknown(self) -> str:
        total = sum(self._unknown.values())
        named = named_tokens(self._unknown)
        some = "1 source token is" if total == 1 else f"{total:,} source tokens are"
        mapped = "was" if total == 1 else "were"
        text = f"warning: {some} not in the vocabulary and {mapped} mapped to UNK: {named}."
        case = self._known_case()
        known = "it is" if total == 1 else "all of them are"
        return f"{text} In {case} case {known} in the vocabulary: try that." if case else text

    def _known_case(self) -> str:
        """Return the case in which every unknown token is in the vocabulary, or an empty string."""
        for name, change in (("lower", str.lower), ("upper", str.upper)):
            if all(token != change(token) and not self._source.unknown(change(token)) for token in self._unknown):
                return name
        return ""
