"""The requests and answers of the service. They are validated with these types, and documented from them.

Descriptions are for those who write clients: they are shown at /docs.

Over 350 lines, because the requests and answers of all addresses are described in one document.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field
from pydantic_core import PydanticCustomError

from freerun.bounds import LENGTH_PENALTY, SEED, TEMPERATURE, TOP_K
from freerun.errors import ConfigError
from freerun.search.methods import Beam, Sampling, Search
from freerun.server.problem import invalid

__all__ = [
    "Answer",
    "DetectBody",
    "Detected",
    "FrontendSettings",
    "Health",
    "Language",
    "ModelDetails",
    "ModelList",
    "ModelSummary",
    "PairToScore",
    "PredictAnswer",
    "PredictBody",
    "PredictOptions",
    "ProblemDetails",
    "RequestType",
    "Sample",
    "ScoreAnswer",
    "ScoreBody",
    "StreamError",
    "StreamLine",
    "TranslateAnswer",
    "TranslateBody",
]


class RequestType(BaseModel):
    """A request, or part of one: values of another type are mistakes."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, json_schema_extra={"additionalProperties": False})
    ignores_unknown_keys: ClassVar[bool] = False


class Answer(BaseModel):
    """Part of an answer."""

    model_config = ConfigDict(protected_namespaces=())


class _FirstMistake(FailFast):
    """Ends the validation of a list at its first mistake; unlike pydantic's own, it can be part of a union."""

    def __hash__(self) -> int:
        return hash(type(self))


Texts = Annotated[list[str], _FirstMistake()]
Features = Annotated[
    str | Texts,
    Field(description='The features of a text: "V;PST", or a list with one feature each.'),
]


class Sample(RequestType):
    """Sampling in place of a search for the best outputs."""

    temperature: float = Field(
        1.0, ge=TEMPERATURE.low, le=TEMPERATURE.high, description="Below 1 sharpens the distribution; 0 is greedy."
    )
    top_k: int | None = Field(None, ge=1, le=int(TOP_K.high), description="Sample from the N best tokens only.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Nucleus sampling: only the top tokens that hold this probability mass."
    )
    seed: int = Field(
        0, ge=SEED.low, le=SEED.high, description="The same seed gives a text at the same position the same samples."
    )


class PredictOptions(RequestType):
    """How to predict. All options are optional."""

    beam_size: int = Field(1, ge=1, description="1 is greedy search.")
    num_hypotheses: int | None = Field(
        None, ge=1, description="Outputs for each text, best first; the beam size is raised to it. Default: 1."
    )
    length_penalty: float = Field(
        0.0, ge=LENGTH_PENALTY.low, le=LENGTH_PENALTY.high, description="Ranks longer outputs higher."
    )
    early_stop: bool = Field(False, description="With a length penalty: end a search sooner; may miss the best output.")
    max_length: int | None = Field(
        None, ge=0, description="The maximum number of tokens of an output, in place of the model's own bound."
    )
    prefix: str = Field("", description="Every output begins with this text.")
    sample: Sample | None = Field(
        None, description="Sample outputs in place of a search; not with beam_size, length_penalty or early_stop."
    )
    token_scores: bool = Field(True, description="False leaves the scores of single tokens out of the answer.")
    attention: bool = Field(
        False, description="Adds how much each output token attends to each source token, if the model has attention."
    )

    def search(self) -> Search:
        """Return the requested search.

        Raises:
            Problem: options that exclude each other, or are out of range.
        """
        if self.sample is not None and (self.beam_size > 1 or self.length_penalty or self.early_stop):
            raise invalid(
                "sample cannot be combined with beam_size, length_penalty or early_stop. Leave one of them out."
            )
        if self.early_stop and not self.length_penalty:
            raise invalid("early_stop needs a length_penalty above 0. Add one, or leave early_stop out.")
        number = self.num_hypotheses or 1
        try:
            if self.sample is None:
                return Beam(self.beam_size, number, self.length_penalty, self.early_stop)
            how = self.sample
            return Sampling(number, how.temperature, how.top_k, how.top_p, how.seed)
        except ConfigError as error:
            raise invalid(str(error)) from None


class PredictBody(PredictOptions):
    """Texts to predict."""

    texts: Texts = Field(min_length=1, description="Source texts, one line each.", examples=[["phonology"]])
    features: Annotated[list[Features], _FirstMistake()] | None = Field(
        None, description="For a model with features, and only for such a model: those of each text."
    )


class StreamLine(RequestType):
    """A line of a stream, unless it is a JSON string: a text, with features for a model that reads them."""

    text: str
    features: Features | None = None


class PairToScore(RequestType):
    """A source and a target to score."""

    source: str
    target: str
    features: Features | None = None


class ScoreBody(RequestType):
    """Pairs to score."""

    pairs: Annotated[list[PairToScore], _FirstMistake()] = Field(
        min_length=1,
        examples=[[{"source": "melanin", "target": "M EH L AH N IH N"}]],
        description="One line each side.",
    )


class OutputHypothesis(Answer):
    """One output."""

    text: str
    tokens: list[str]
    score: float = Field(description="Natural log-probability, with that of the end token unless truncated.")
    rank_score: float = Field(description="The score under the length penalty, which ranks outputs.")
    token_scores: list[float] | None = Field(
        None, description="One log-probability per token, then that of the end token unless truncated."
    )
    truncated: bool = Field(description="True if the output reached the length bound without an end token.")
    attention: list[list[float]] | None = Field(
        None, description="For each token, and the end token unless truncated: the weight of each source token."
    )


class Predicted(Answer):
    """The outputs for a text: the object that `freerun predict --json` prints."""

    source: str
    features: Features | None = None
    hypotheses: list[OutputHypothesis]
    source_tokens: list[str] | None = Field(None, description="With attention: the tokens that the weights belong to.")
    unknown: list[str] | None = Field(None, description="Source tokens that are not in the model's vocabulary, if any.")
    unknown_features: list[str] | None = Field(
        None, description="Features that are not in the model's vocabulary, if any."
    )


class StreamError(Answer):
    """A line of a stream's answer for a line that was rejected."""

    error: ProblemDetails


class PredictAnswer(Answer):
    """One prediction for each text, in their order."""

    model: str
    predictions: list[Predicted]


class ScoredPair(Answer):
    """The score of a pair: the object that `freerun score --json` prints."""

    source: str
    features: Features | None = None
    target: str
    score: float | None = Field(description="Natural log-probability of the target; null if it has an unknown token.")
    token_scores: list[float | None] = Field(description="One for each token and one for the end token.")
    unknown: list[str] | None = Field(None, description="Target tokens that are not in the model's vocabulary, if any.")


class ScoreAnswer(Answer):
    """One score for each pair, in their order."""

    model: str
    scores: list[ScoredPair]


class ModelSummary(Answer):
    """A model that is served."""

    name: str
    features: bool = Field(description="True if each text needs features.")
    attention: bool = Field(description="True if the model has attention.")


class ModelList(Answer):
    """All models that are served."""

    models: list[ModelSummary]


class SideDetails(Answer):
    """How the texts of one side become tokens."""

    tokens: str
    normalisation: str
    case: str
    vocabulary: int = Field(description="Number of ids.")
    symbols: list[str] = Field(description="The first 500 tokens.")


class FeatureDetails(Answer):
    """The features in a model's vocabulary."""

    separator: str
    vocabulary: int
    symbols: list[str] = Field(description="The first 500 features.")


class RuntimeDetails(Answer):
    """What runs a model."""

    name: Literal["compiled", "onnxruntime", "torch"]
    instructions: str | None = Field(description="The instruction set in use, such as avx512; null if unknown.")
    precision: Literal["fp32", "int8"]


class ModelDetails(ModelSummary):
    """A model: what it is, how good it is, and what runs it."""

    features: FeatureDetails | None = Field(description="null for a model without features.")  # type: ignore[assignment]
    digest: str = Field(description="SHA-256 that names the model and all files that its outputs depend on.")
    card: str = Field(description="The model card, in Markdown.")
    metrics: dict[str, float | None] = Field(description="On the development pairs.")
    parameters: int
    architecture: dict[str, Any]
    source: SideDetails
    target: SideDetails
    languages: dict[str, str] = Field(description="The codes of source and target for LibreTranslate's clients.")
    runtime: RuntimeDetails
    limits: dict[str, int] = Field(description="The limits of a request.")


def _checked_format(value: Any) -> Any:
    if value not in ("text", "", None):
        raise PydanticCustomError("format", 'expected "text": a model would translate markup as well')
    return "text"


class TranslateBody(RequestType):
    """LibreTranslate's request; unknown keys are ignored, as there."""

    model_config = ConfigDict(strict=False, json_schema_extra={"additionalProperties": True})
    ignores_unknown_keys: ClassVar[bool] = True

    q: str | Texts = Field(description="A text, or several; each line is one input of the model.")
    source: str = Field(description='The code of the source, or "auto".')
    target: str = Field(description="The code of the target.")
    format: Annotated[Literal["text"], BeforeValidator(_checked_format)] = Field(
        "text", description="Only text: a model would translate markup as well."
    )
    alternatives: int = Field(0, ge=0, description="Further outputs for each text.")
    api_key: str | None = Field(None, description="A key, if the service needs one.")


class DetectBody(RequestType):
    """A text, or several, whose language to detect."""

    model_config = ConfigDict(strict=False, json_schema_extra={"additionalProperties": True})
    ignores_unknown_keys: ClassVar[bool] = True

    q: str | Texts = Field(description="A text, or several.")
    api_key: str | None = Field(None, description="A key, if the service needs one.")


class Detected(Answer):
    """A language that a text may be in."""

    confidence: float = Field(
        description="Percentage of the text's tokens that are in the vocabulary of this language's model."
    )
    language: str


class TranslateAnswer(Answer):
    """Outputs, in the form of the request: one, or a list."""

    translatedText: str | list[str]
    alternatives: list[str] | list[list[str]] | None = None
    detectedLanguage: Detected | list[Detected] | None = None


class Language(Answer):
    """A source language, and what it can be translated to."""

    code: str
    name: str
    targets: list[str]


class Health(Answer):
    """The service answers."""

    status: Literal["ok"]


class FrontendSettings(Answer):
    """The settings that LibreTranslate's page reads."""

    charLimit: int
    frontendTimeout: int
    apiKeys: bool
    keyRequired: bool
    suggestions: bool
    filesTranslation: bool
    supportedFilesFormat: list[str]
    language: dict[str, Language]


class ProblemDetails(Answer):
    """Why a request was rejected (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    error: str = Field(description="The same as detail, for clients of LibreTranslate.")
    limit: str | None = Field(
        None, description="The name of the limit; for most, the option of freerun serve without its dashes."
    )
    maximum: float | None = Field(None, description="The value of the limit.")
    errors: list[dict[str, str]] | None = Field(
        None, description="For each mistake its `pointer` (a JSON pointer) and `detail`."
    )
    line: int | None = Field(None, description="In a stream: the number of the line, from 1.")
