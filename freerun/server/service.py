"""The application of a worker: which code answers which address, and what holds for every request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freerun.server import prediction_routes, stream_route, translation_routes
from freerun.server.documents import API_HEADERS, Document, page_documents, send_document
from freerun.server.openapi import docs_page, openapi_document
from freerun.server.origins import check_host, check_site
from freerun.server.problem import Problem, unavailable
from freerun.server.served_models import details_of
from freerun.server.service_state import ClientGone, ServiceState, header_of

__all__ = ["Service"]

_OPEN: Final = (
    "/",
    "/live",
    "/ready",
    "/health",
    "/v2/health/live",
    "/v2/health/ready",
    "/docs",
    "/openapi.json",
    "/frontend/settings",
)
"""Addresses that need no key: they reveal nothing about texts."""
_CHECKED_LATER: Final = ("/translate", "/detect", "/languages")
"""Their key may be in the body."""
_EVERYWHERE: Final = [(b"x-content-type-options", b"nosniff")]
_JSON: Final = b"application/json"

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class Service:
    """The ASGI application."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state
        self._router = Router(self._routes(), redirect_slashes=False)
        app: ASGIApp = self._answer
        if self._state.settings.cors:
            app = CORSMiddleware(
                app,
                allow_origins=list(self._state.settings.cors),
                allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type", "x-api-key"],
                max_age=600,
            )
        self._app = app

    # ---------------------------------------------------------------------------------------------------- every request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and count it."""
        began = asyncio.get_running_loop().time()
        status = 499

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_EVERYWHERE]
            await send(message)

        scope["endpoint_name"] = "other"
        try:
            await self._app(scope, receive, send_counted)
        except ClientGone:
            status = scope.get("rejected_with", 499)
        except Exception as error:
            if status != 499:  # an answer has begun: uvicorn closes the connection
                status = 500
                raise
            self._state.log.failure("a request failed", error, trace=True, path=scope["path"])
            await _send_problem(Problem(500, "The service has an internal error. See its log."), send_counted)
        finally:
            seconds = asyncio.get_running_loop().time() - began
            self._state.counts.request(scope["endpoint_name"], status, seconds)
            if self._state.settings.log_requests:
                self._log_request(scope, status, seconds)
            await self._state.release_when_sent(scope)

    def _log_request(self, scope: Scope, status: int, seconds: float) -> None:
        client = (scope.get("client") or ["-"])[0]
        values = {"client": client, "method": scope["method"], "path": scope["path"], "status": status}
        self._state.log.info("request", **values, milliseconds=round(1000 * seconds, 2))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the key, find the handler and turn errors into answers."""
        scope["app"] = self  # the router then raises HTTPException where nothing matches
        path, settings = scope["path"], self._state.settings
        try:
            if settings.is_local:
                check_host(scope, settings.host_names)
            check_site(scope, settings.cors)
            if path not in _OPEN and path not in _CHECKED_LATER and not path.startswith("/page/"):
                self._state.check_key(scope)
            await self._router(scope, receive, send)
        except Problem as problem:
            await _send_problem(problem, send)
        except HTTPException as error:
            allowed = (error.headers or {}).get("Allow", "GET")
            detail = {
                404: "There is nothing at this address. See /docs.",
                405: f"{scope['method']} is not allowed here. Use {allowed}.",
            }
            rejection = Problem(error.status_code, detail.get(error.status_code, error.detail), headers=error.headers)
            await _send_problem(rejection, send)

    # ----------------------------------------------------------------------------------------------------------- routes

    def _routes(self) -> list[Route]:
        state = self._state
        fixed: dict[str, Document] = {**page_documents(), "/docs": docs_page(state.limits, state.keys is not None)}
        fixed["/openapi.json"] = openapi_document(state.limits, state.keys is not None)
        post, get = ["POST"], ["GET"]
        documents = [
            Route(path, _Endpoint("documents", _document(document)), methods=get) for path, document in fixed.items()
        ]
        return [
            Route("/v1/models/{name}/predict", _Endpoint("predict", self._predict), methods=post),
            Route("/v1/models/{name}/score", _Endpoint("score", self._score), methods=post),
            Route("/v1/models/{name}", _Endpoint("models", self._model), methods=get),
            Route("/v1/models", _Endpoint("models", self._models), methods=get),
            Route("/translate", _Endpoint("translate", self._translate), methods=post),
            Route("/detect", _Endpoint("detect", self._detect), methods=post),
            Route("/languages", _Endpoint("languages", self._languages), methods=get),
            Route("/frontend/settings", _Endpoint("status", self._frontend_settings), methods=get),
            Route("/live", _Endpoint("status", self._live), methods=get),
            Route("/ready", _Endpoint("status", self._ready), methods=get),
            Route("/health", _Endpoint("status", self._health), methods=get),
            Route("/v2/health/live", _Endpoint("status", self._v2_live), methods=get),
            Route("/v2/health/ready", _Endpoint("status", self._v2_ready), methods=get),
            Route("/metrics", _Endpoint("metrics", self._metrics), methods=get),
            *documents,
        ]

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path_params"]["name"]
        if stream_route.wants_stream(header_of(scope, b"accept")):
            scope["endpoint_name"] = "stream"
            await stream_route.predict_stream(self._state, name, scope, receive, send)
        else:
            await _send(await prediction_routes.predict(self._state, name, scope, receive), send)

    async def _score(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send(await prediction_routes.score(self._state, scope["path_params"]["name"], scope, receive), send)

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        models = [
            {"name": name, "features": served.has_features, "attention": served.predictor.has_attention}
            for name, served in self._state.models.items()
        ]
        await _send(to_json({"models": models}), send)

    async def _model(self, scope: Scope, receive: Receive, send: Send) -> None:
        served = self._state.model(scope["path_params"]["name"])
        await _send(to_json(details_of(served, self._state.limits)), send)

    async def _translate(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send(await translation_routes.translate(self._state, scope, receive), send)

    async def _detect(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send(await translation_routes.detect(self._state, scope, receive), send)

    async def _languages(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send(await translation_routes.languages(self._state, scope, receive), send)

    async def _frontend_settings(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send(translation_routes.frontend_settings(self._state), send)

    # -- is it alive, and can it answer?

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send(b'{"status":"live"}', send)

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check_ready()
        await _send(b'{"status":"ready"}', send)

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check_ready()
        await _send(b'{"status":"ok"}', send)

    async def _v2_live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send(b'{"live":true}', send)

    async def _v2_ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check_ready()
        await _send(b'{"ready":true}', send)

    def _check_ready(self) -> None:
        if self._state.rules.is_draining:
            raise unavailable("This worker is ending. Try again.", 1.0)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        self._state.counts.set("connections", len(scope["connection"].connections))
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self._state.table)
        await _send(generate_latest(registry), send, CONTENT_TYPE_LATEST.encode())


class _Endpoint:
    """A handler with the name by which its requests are counted. Starlette calls an object as it is."""

    def __init__(self, name: str, handler: Handler) -> None:
        self._name, self._handler = name, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["endpoint_name"] = self._name
        await self._handler(scope, receive, send)


def _document(document: Document) -> Handler:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send_document(document, scope, send)

    return handler


async def _send(body: bytes, send: Send, media_type: bytes = _JSON) -> None:
    headers = [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), *API_HEADERS]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _send_problem(problem: Problem, send: Send) -> None:
    response = problem.response()
    await send(
        {"type": "http.response.start", "status": problem.status, "headers": [*response.raw_headers, *API_HEADERS]}
    )
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": False})
