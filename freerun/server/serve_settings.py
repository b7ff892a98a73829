"""The settings of a service: the options of ``freerun serve``, checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from freerun.errors import ConfigError
from freerun.text import shown

if TYPE_CHECKING:
    from freerun.loading import Precision

__all__ = [
    "DEFAULT_LIMITS",
    "RequestLimits",
    "ServeSettings",
    "parse_languages",
    "parse_models",
]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of models and codes of languages: they are part of addresses."""


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """The limits of one request; each is an option of ``freerun serve``.

    Attributes:
        max_texts: texts, or pairs to score.
        max_characters: characters of a text, of its features, of a target or of a prefix.
        max_tokens: source tokens of a text, and target tokens of a target.
        max_bytes: bytes of a body, except of a stream.
        max_beam_size: ``beam_size`` and ``num_hypotheses``.
        max_length: the largest ``max_length`` that a request may set.
        max_cost: beam size x maximum length of an output x (1 + source tokens / 64), for each text: about the number
            of steps that it may take.
        max_output_tokens: tokens that the outputs of a request may have, by their length bounds.
        max_weights: attention weights: source tokens x output tokens, added up over all outputs.
    """

    max_texts: int = 1000
    max_characters: int = 10_000
    max_tokens: int = 1000
    max_bytes: int = 4_000_000
    max_beam_size: int = 100
    max_length: int = 2000
    max_cost: int = 200_000
    max_output_tokens: int = 2_000_000
    max_weights: int = 4_000_000


DEFAULT_LIMITS: Final = RequestLimits()


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """All of ``freerun serve``'s options, with their defaults.

    Attributes:
        models: the directory of each model, by name.
        host: the address to listen on.
        host_names: names, besides localhost and addresses, under which a service that only this machine can reach is
            asked, for example by a proxy.
        port: 0 for any free one.
        workers: the number of processes that answer.
        threads: threads of each worker that decode one batch.
        queue: texts that may wait in each worker.
        timeout: seconds until an accepted request is answered, with 503 if its result is not there yet.
        drain: seconds that running requests have to finish when the service stops, or a model was replaced.
        api_key_file: a file with one key per line; None: no key is needed.
        cors: the origins whose pages may read answers.
        languages: the codes (source, target) under which LibreTranslate's clients find each model.
        precision: of all models.
        log_json: write events as JSON Lines.
        log_requests: write a line for each request.
        read_timeout: seconds without progress after which a client that sends or reads slowly is disconnected.
        keep_alive: seconds that an idle connection stays open.
        max_connections: clients that may be connected to each worker.
        limits: of one request.
    """

    models: Mapping[str, Path]
    host: str = "127.0.0.1"
    host_names: Sequence[str] = ()
    port: int = 8080
    workers: int = 1
    threads: int = 1
    queue: int = 1000
    timeout: float = 30.0
    drain: float = 30.0
    api_key_file: Path | None = None
    cors: Sequence[str] = ()
    languages: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    precision: Precision = "fp32"
    log_json: bool = False
    log_requests: bool = False
    read_timeout: float = 20.0
    keep_alive: float = 15.0
    max_connections: int = 4000
    limits: RequestLimits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that do not fit together."""
        if self.queue < self.limits.max_texts:
            raise ConfigError.single(
                "--queue",
                f"it has room for {self.queue:,} texts, but a request may have {self.limits.max_texts:,}",
                "Expected a queue that has room for one request",
                f"Use --queue {self.limits.max_texts} or more, or a smaller --max-texts",
            )
        for origin in self.cors:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ConfigError.single(
                    "--cors",
                    f"{shown(origin)} is not an origin",
                    "Expected a scheme and a host, such as https://example.org, or *",
                    "Write scheme and host only, without a path or a slash at the end",
                )
        for name in self.host_names:
            if not re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", name):
                raise ConfigError.single(
                    "--host-name",
                    f"{shown(name)} is not the name of a host",
                    "Expected a name such as translate.example.org",
                    "Write it without a scheme, port or path",
                )

    @property
    def is_local(self) -> bool:
        """Return True if only programs on this machine can connect."""
        import ipaddress  # costs two milliseconds, and the command line imports this module

        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_models(arguments: Sequence[str]) -> dict[str, Path]:
    """Return the models by name, from ``MODEL`` or ``NAME=MODEL``; without a name, that of the directory.

    Raises:
        ConfigError: a name that addresses cannot have, or that two models share.
    """
    models: dict[str, Path] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or "/" in name:  # a path may have an equals sign
            name, path = _name_of(Path(argument)), argument
        if not _NAME.fullmatch(name):
            raise ConfigError.single(
                argument,
                f"{shown(name)} cannot be the name of a model",
                "Expected up to 64 letters, digits, dots, hyphens and underscores",
                "Name it: NAME=MODEL",
            )
        if not path:
            raise ConfigError.single(argument, "the path is empty", "Expected NAME=MODEL", "Add the directory")
        if name in models:
            raise ConfigError.single(
                argument,
                f"two models have the name {shown(name)}",
                "Expected a different name for each",
                "Name them: NAME=MODEL",
            )
        models[name] = Path(path)
    return models


def _name_of(path: Path) -> str:
    """Return a name for a bundle or run directory; a run's best bundle has the run's name."""
    resolved = path.resolve()
    directory = resolved.parent if resolved.name == "best" else resolved
    return re.sub(r"[^A-Za-z0-9._-]", "-", directory.name).lstrip("-._") or "model"


def parse_languages(arguments: Sequence[str], models: Mapping[str, Path]) -> dict[str, tuple[str, str]]:
    """Return the codes of source and target for each model, from ``NAME=SOURCE:TARGET``; by default its name, twice.

    Raises:
        ConfigError: another form, an unknown model, or a pair of codes that two models share.
    """
    languages = {name: (name, name) for name in models}
    for argument in arguments:
        name, _, codes = argument.partition("=")
        source, _, target = codes.partition(":")
        if not all(map(_NAME.fullmatch, (name, source, target))):
            expected, fix = "Expected a pair such as demo=en:ja", "Write NAME=SOURCE:TARGET"
            raise ConfigError.single("--languages", f"{shown(argument)} is not a pair of codes", expected, fix)
        if source == "auto":
            expected, fix = "Expected the code of a language: auto stands for detection", "Choose another code"
            raise ConfigError.single("--languages", f"{shown(argument)} has the source auto", expected, fix)
        if name not in models:
            known = f"Expected one of {', '.join(models)}"
            raise ConfigError.single("--languages", f"no model has the name {shown(name)}", known, "Check the name")
        languages[name] = (source, target)
    pairs = list(languages.values())
    for name, pair in languages.items():
        if pairs.count(pair) > 1:
            what = f"two models translate {pair[0]} to {pair[1]}, one of them {name}"
            raise ConfigError.single(
                "--languages", what, "Expected one model for each pair of codes", "Give one of them other codes"
            )
    return languages
