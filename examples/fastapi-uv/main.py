"""A small JSON API with a WebSocket that echoes."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response, WebSocket


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    print("fastapi-uv is starting", flush=True)
    yield
    print("fastapi-uv is stopping", flush=True)


app = FastAPI(title="fastapi-uv", lifespan=lifespan)


@app.middleware("http")
async def log(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    print(request.method, request.url.path, response.status_code, flush=True)
    return response


@app.get("/")
def hello() -> dict[str, str]:
    return {"message": f"Hello from {os.environ.get('GREETING_NAME', 'Shipoff')}"}


@app.get("/healthz")
def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)
