"""The web server of the page, as an ASGI application. It keeps nothing between requests."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from typing import Any, TypeVar

from innerloop.demo.contenders import Contender, Shown
from innerloop.demo.described import described
from innerloop.demo.guard import Guard
from innerloop.demo.requests import Limits, Refused, Task, task_in
from innerloop.extras import extra

with extra("demo"):
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp

__all__ = ["application"]

T = TypeVar("T")

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def application(shown: Shown, limits: Limits | None = None, hosts: frozenset[str] | None = None) -> ASGIApp:
    """The page and what it asks for.

    ====================  ==================================================================================
    ``GET /``             the page; its other files are beside it
    ``GET /api/setup``    the learners, the size of the images, the limits
    ``POST /api/adapt``   a task in, the losses and predictions of every learner after each inner step out
    ``POST /api/model``   a task and a learner in, the adapted network as a safetensors file out
    ====================  ==================================================================================

    A request that is wrong, too large, or one too many gets a status from 400 to 499 and ``{"error": reason}``.

    Args:
        shown: the learners.
        limits: the bounds of what is accepted.
        hosts: the host names that a request may be addressed to, so that no other web site can be pointed here. None
            allows the names of this machine's loopback address.
    """
    limits = limits or Limits()
    desk = _Desk(shown, limits)
    routes = [Route(path, partial(_file, content, kind)) for path, content, kind in _page()]
    routes += [
        Route("/api/setup", partial(_setup, json.dumps({**described(shown, limits), "server": True}).encode())),
        Route("/api/adapt", desk.adapt, methods=["POST"]),
        Route("/api/model", desk.model, methods=["POST"]),
    ]
    inner = Starlette(routes=routes, exception_handlers={Refused: _refused, HTTPException: _other})
    return Guard(inner, frozenset({"localhost", "127.0.0.1", "[::1]"}) if hosts is None else hosts)


class _Desk:
    """Takes tasks in, has them worked on by a few threads, and turns away what is too much."""

    def __init__(self, shown: Shown, limits: Limits) -> None:
        self._shown, self._limits = shown, limits
        self._threads = ThreadPoolExecutor(limits.working, thread_name_prefix="adapting")
        self._inside = 0

    async def adapt(self, request: Request) -> Response:
        """What every learner answers to a task."""

        async def answers(task: Task) -> list[dict[str, Any]]:
            asked = [one for one in self._shown.contenders if task.learner in ("", one.key)]
            return list(await asyncio.gather(*(self._on_a_thread(_answer, one, task) for one in asked)))

        started = time.perf_counter()
        found = await self._worked(request, answers)
        return JSONResponse({"learners": found, "milliseconds": round(1000 * (time.perf_counter() - started), 1)})

    async def model(self, request: Request) -> Response:
        """The network of one learner, adapted to a task."""

        async def packed(task: Task) -> tuple[str, bytes]:
            if not task.learner:
                raise Refused(422, "name the learner whose network is wanted")
            one = next(one for one in self._shown.contenders if one.key == task.learner)
            return one.key, await self._on_a_thread(_packed, one, task)

        key, content = await self._worked(request, packed)
        name = f'attachment; filename="{key}-adapted.safetensors"'
        return Response(content, media_type="application/octet-stream", headers={"Content-Disposition": name})

    async def _worked(self, request: Request, work: Callable[[Task], Awaitable[T]]) -> T:
        if self._inside >= self._limits.waiting:
            raise Refused(429, "too many requests are being worked on; try again in a moment")
        self._inside += 1
        try:
            body = await _body(request, self._limits.body(self._shown), self._limits.seconds)
            working = asyncio.ensure_future(work(task_in(body, self._shown, self._limits)))
            leaving = asyncio.ensure_future(_gone(request))
            try:
                await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    return working.result()
                raise Refused(400, "the connection was closed")  # nobody reads this; what waits for a thread is dropped
            finally:
                working.cancel()
                leaving.cancel()
        finally:
            self._inside -= 1

    async def _on_a_thread(self, function: Callable[[Contender, Task], T], one: Contender, task: Task) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, one, task)


def _answer(one: Contender, task: Task) -> dict[str, Any]:
    return one.answer(task.x, task.y, task.queries, task.ways)


def _packed(one: Contender, task: Task) -> bytes:
    return one.adapted(task.x, task.y, task.ways, task.names)


async def _body(request: Request, most: int, seconds: float) -> bytes:
    """The body of a request, which must be JSON and arrive in time."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "the content type must be application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "the body must not be compressed")
    too_large = Refused(413, f"the body must have at most {most} bytes")
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit() and len(declared) < 16):
        raise Refused(400, "the content length is not a number")
    if int(declared) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {seconds:g} seconds") from None
    except ClientDisconnect:
        raise Refused(400, "the body broke off") from None
    return bytes(body)


async def _gone(request: Request) -> None:
    """Returns when whoever asked has closed the connection, as the page does when it asks anew."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _file(content: bytes, kind: str, request: Request) -> Response:
    return Response(content, media_type=kind)


async def _setup(content: bytes, request: Request) -> Response:
    return Response(content, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse({"error": error.reason}, error.status, headers)


async def _other(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _page() -> list[tuple[str, bytes, str]]:
    """The page's files: their paths, contents and types. No other file can be asked for."""
    found = []
    for file in sorted(files("innerloop.demo").joinpath("page").iterdir(), key=lambda file: file.name):
        kind = TYPES.get("." + file.name.rpartition(".")[2])
        if kind:
            found.append(("/" if file.name == "index.html" else f"/{file.name}", file.read_bytes(), kind))
    return found
