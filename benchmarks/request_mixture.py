"""Requests of every kind that a service can answer, and some that it refuses."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from http_client import Request
from service_process import BEAM, MODEL, PREDICT, SCORE, Service


class Mixture:
    """Requests of every kind that a model can answer, and some that are refused."""

    def __init__(self, service: Service, words: Sequence[str]) -> None:
        self._details = json.loads(service.get(f"/v1/models/{MODEL}"))
        self._words, self._random = words, random.Random(1)
        known = self._details["features"]
        self._features = known["symbols"] if known else None
        predictions = service.post(PREDICT, self._texts(words))["predictions"]
        self._first = {each["source"]: each["hypotheses"][0] for each in predictions}
        self.requests = self._requests()
        self._kinds = list(self.requests)
        self._weights = [_WEIGHTS.get(kind, 1) for kind in self._kinds]

    def next(self) -> Request:
        """Return the next request."""
        (kind,) = self._random.choices(self._kinds, self._weights)
        return self._random.choice(self.requests[kind])

    def _texts(self, words: Sequence[str]) -> dict[str, Any]:
        """Return a request's texts, with features if the model needs them."""
        values: dict[str, Any] = {"texts": list(words)}
        if self._features is not None:
            values["features"] = [self._features_of(word) for word in words]
        return values

    def _features_of(self, word: str) -> list[str]:
        chosen = random.Random(word)
        return chosen.sample(self._features, min(2, len(self._features)))

    def _requests(self) -> dict[str, list[Request]]:
        found = {
            kind: [Request.of(kind, PREDICT, {**self._texts(self._some(size)), **values}) for _ in range(50)]
            for kind, (size, values) in _PREDICTED.items()
            if kind != "attention" or self._details["attention"]
        }
        found["prefix"] = [
            Request.of("prefix", PREDICT, {**self._texts([word]), "prefix": self._first[word]["tokens"][0]})
            for word in self._some(50)
            if self._first[word]["tokens"]
        ]
        found["score"] = [Request.of("score", SCORE, {"pairs": self._pairs(3)}) for _ in range(50)]
        found["stream"] = [self._stream(self._some(100)) for _ in range(20)]
        if self._features is None:
            found["translate"] = [
                Request.of(
                    "translate",
                    "/translate",
                    {"q": "\n".join(self._some(2)), "source": MODEL, "target": MODEL, "alternatives": 1},
                )
                for _ in range(50)
            ]
        found["status"] = [Request.of("status", path) for path in ("/live", "/ready", "/metrics", "/v1/models", "/")]
        found["refused"] = self._refused()
        return found

    def _some(self, number: int) -> list[str]:
        return self._random.sample(self._words, number)

    def _pairs(self, number: int) -> list[dict[str, Any]]:
        pairs = []
        for word in self._some(number):
            features = {} if self._features is None else {"features": self._features_of(word)}
            pairs.append({"source": word, "target": self._first[word]["text"], **features})
        return pairs

    def _stream(self, words: Sequence[str]) -> Request:
        lines = []
        for word in words:
            features = {} if self._features is None else {"features": self._features_of(word)}
            lines.append(json.dumps({"text": word, **features}))
        content = "".join(f"{line}\n" for line in lines).encode()
        headers = {"Accept": "application/x-ndjson", "Content-Type": "application/x-ndjson"}
        return Request.of("stream", PREDICT, content, headers=headers)

    def _refused(self) -> list[Request]:
        """Return requests with mistakes."""
        good = self._texts([self._words[0]])
        return [
            Request.of("refused", PREDICT, b"{", 400),
            Request.of("refused", PREDICT, {**good, "beam_size": 0}, 422),
            Request.of("refused", PREDICT, {**good, "beam_size": 10_000}, 422),
            Request.of("refused", PREDICT, {**good, "unknown": 1}, 422),
            Request.of("refused", PREDICT, {"texts": []}, 422),
            Request.of("refused", PREDICT, self._texts([self._words[0]] * 1001), 413),
            Request.of("refused", PREDICT, b"[" * 5000, 400),
            Request.of("refused", PREDICT, b"{}", 415, {"Content-Type": "text/plain"}),
            Request.of("refused", PREDICT, None, 405),
            Request.of("refused", "/v1/models/none/predict", good, 404),
            Request.of("refused", "/nothing", None, 404),
        ]


_PREDICTED: Mapping[str, tuple[int, Mapping[str, Any]]] = {
    "greedy": (1, {}),
    "beam": (1, {"beam_size": BEAM}),
    "n-best": (1, {"beam_size": 8, "num_hypotheses": 8, "length_penalty": 0.6}),
    "sampling": (1, {"num_hypotheses": 3, "sample": {"temperature": 0.8, "top_p": 0.9, "seed": 7}}),
    "attention": (1, {"attention": True}),
    "several texts": (20, {}),
}
"""Kinds of predictions: the number of texts, and options."""
_WEIGHTS = {"greedy": 8, "beam": 4, "score": 2}


def outputs_of(kind: str, body: bytes) -> Any:
    """Return what has to be the same whenever a request is repeated: its outputs, without scores."""
    if kind in ("status", "refused"):
        return None
    if kind == "stream":
        return [_texts(json.loads(line)) for line in body.splitlines()]
    answer = json.loads(body)
    if kind == "translate":
        return answer["translatedText"]
    if kind == "score":
        return [round(each["score"], 2) for each in answer["scores"]]
    return [_texts(each) for each in answer["predictions"]]


def _texts(prediction: Mapping[str, Any]) -> list[str]:
    return [each["text"] for each in prediction["hypotheses"]]
