"""The page's server: three files, and a websocket for each visit. All models and simulators work in one thread."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.resources import files
from time import monotonic
from typing import Any

from lwd.deploy.web import guard, web
from lwd.errors import LWDError
from lwd.explore.live import Live

FILES = {"/": ("index.html", "text/html"), "/app.js": ("app.js", "text/javascript"), "/style.css": ("style.css", "text/css")}
VISITS = 4  # at a time
BYTES, SPEEDS = 1 << 12, (0.25, 4.0)  # of a message at most; of the clock, against the environment's own
POLICY = "default-src 'self'; img-src 'self' data:; connect-src 'self'"  # for browsers: nothing from elsewhere
log = logging.getLogger(__name__)


class Page:
    """The application `app`. `visit` makes a new `Live`."""

    def __init__(self, visit: Callable[[], Live]) -> None:
        self.visit, self.visits = visit, 0
        self.thread = ThreadPoolExecutor(1)
        self.sockets = set[web.WebSocketResponse]()
        self.app = web.Application(middlewares=[guard("")])
        self.app.add_routes([web.get("/v1/live", self._live), *(web.get(path, self._file) for path in FILES)])
        self.app.on_shutdown.append(self._close)

    async def _file(self, request: web.Request) -> web.Response:
        name, kind = FILES[request.path]
        text = files("lwd.explore").joinpath("page", name).read_text()
        return web.Response(text=text, content_type=kind, headers={"Cache-Control": "no-store", "Content-Security-Policy": POLICY})

    async def _do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.thread, call, *arguments)

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if self.visits >= VISITS:
            raise web.HTTPServiceUnavailable(text=f"{VISITS} pages are open already: close one")
        self.visits += 1
        socket = web.WebSocketResponse(max_msg_size=BYTES, heartbeat=30, timeout=1)
        try:
            await socket.prepare(request)
            self.sockets.add(socket)
            visit = Visit(socket, await self._do(self.visit), self._do)
            await visit.last()
        finally:
            self.visits -= 1
            self.sockets.discard(socket)
        return socket

    async def _close(self, app: web.Application) -> None:
        await asyncio.gather(*(socket.close(code=1001) for socket in self.sockets))
        self.thread.shutdown(wait=False, cancel_futures=True)


class Visit:
    """One open page: a clock that steps, and messages that are obeyed between its steps."""

    def __init__(self, socket: web.WebSocketResponse, live: Live, do: Callable[..., Any]) -> None:
        self.socket, self.live, self.do = socket, live, do
        self.running, self.speed = asyncio.Event(), 1.0

    async def last(self) -> None:
        """Until the page is closed."""
        await self._tell(self.live.hello)
        clock = asyncio.create_task(self._clock())
        try:
            async for message in self.socket:
                if message.type != web.WSMsgType.TEXT:
                    continue
                try:
                    await self._obey(json.loads(message.data))
                except (ValueError, RecursionError):
                    await self.socket.send_json({"type": "error", "error": "a message is JSON"})
        except ConnectionError:  # the page has gone
            pass
        finally:
            clock.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await clock

    async def _clock(self) -> None:
        due = monotonic()
        while await self.running.wait():
            begun = monotonic()
            await self._tell(self.live.tick)
            due = max(due, begun) + 1 / (self.live.kind.fps * self.speed)  # who comes late does not hurry
            await asyncio.sleep(max(0.0, due - monotonic()))

    async def _obey(self, asked: Any) -> None:
        if isinstance(asked, dict) and asked.get("type") == "run":
            (self.running.set if asked.get("on") is True else self.running.clear)()
            if type(speed := asked.get("speed", self.speed)) in (int, float):
                self.speed = min(max(float(speed), SPEEDS[0]), SPEEDS[1])
        elif isinstance(asked, dict) and asked.get("type") == "step":
            await self._tell(self.live.tick)
        else:
            await self._tell(self.live.obey, asked)

    async def _tell(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Sends what a call in the models' thread has to tell."""
        try:
            told = await self.do(call, *arguments)
        except LWDError as error:
            told = {"type": "error", "error": str(error)}
        except Exception:
            log.exception("a step of the page has failed")
            self.running.clear()
            told = {"type": "error", "error": "the server has failed: its log says why"}
        await self.socket.send_json(told)
