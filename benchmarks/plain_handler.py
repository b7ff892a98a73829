"""The service to compare with: a handler in Starlette that calls ``predict`` for each request.

    python benchmarks/plain_handler.py MODEL --port 8081 [--beam-size 5] [--precision fp32]

POST /predict takes {"texts": ["word"]} and answers as ``freerun serve`` does. It has one process, no queue, no limits
and no batches; ``predict`` runs in the event loop, which saves a change of threads for each request.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import freerun
from freerun.search.methods import Beam


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("--beam-size", type=int, default=1)
    parser.add_argument("--precision", choices=["fp32", "int8"], default="fp32")
    options = parser.parse_args()
    predictor = freerun.load(options.model, threads=1, precision=options.precision)
    search = Beam(options.beam_size, 1)

    async def predict(request: Request) -> JSONResponse:
        texts = (await request.json())["texts"]
        return JSONResponse({"predictions": [predictor.predict(text, search).as_json() for text in texts]})

    async def live(_: Request) -> JSONResponse:
        return JSONResponse({"status": "live"})

    app = Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/live", live)])
    uvicorn.run(app, port=options.port, http="httptools", log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
