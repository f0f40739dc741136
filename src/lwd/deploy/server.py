"""`lwd serve`: policies and actions over HTTP and websockets. Requests that come together are planned for together.

    POST /v1/policy   {"obs": [...], "task": ..., "seed": ...} -> a policy file (safetensors)
    POST /v1/action   the same -> {"action": [...], "seed": ...}, the action of a new policy at this observation
    GET  /v1/ws       a websocket: the same messages with "want": "policy" or "action" -> a binary message, or JSON
    GET  /healthz, /metrics

What is refused is answered with {"error": a sentence, "status": the code of HTTP}.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic, perf_counter
from typing import Any

from lwd.config import require
from lwd.deploy.batch import Planning, Query
from lwd.deploy.histogram import Histogram
from lwd.deploy.limits import Limits, Rates
from lwd.deploy.web import PATIENCE, Handler, guard, web
from lwd.errors import LWDError

EDGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # seconds, of the histogram in /metrics
PAUSES = 4  # in which a batch waits for more requests
KINDS = {"policy": "application/octet-stream", "action": "application/json"}  # what can be asked for -> type of the answer
HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "1"}}
log = logging.getLogger(__name__)


class Refused(Exception):
    """A request that is not answered: the code of HTTP, and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Service:
    """One model behind one application of aiohttp, `app`."""

    def __init__(self, planning: Planning, limits: Limits, token: str = "") -> None:
        self.planning, self.limits, self.rates = planning, limits, Rates(limits.rate_limit)
        self.waiting: list[tuple[Query, asyncio.Future[bytes]]] = []
        self.arrived, self.ending = asyncio.Event(), False
        self.sockets, self.busy = set[web.WebSocketResponse](), 0  # and how many of them wait for an answer
        self.codes, self.times, self.batches = Counter[tuple[str, int]](), Histogram(), Counter[str]()
        self.app = web.Application(middlewares=[self._counted, guard(token)], client_max_size=limits.bytes)
        gets = {"/v1/ws": self._socket, "/healthz": self._health, "/metrics": self._metrics}
        self.app.add_routes([web.post(f"/v1/{kind}", self._post) for kind in KINDS] + [web.get(path, own) for path, own in gets.items()])
        self.app.cleanup_ctx.append(self._planning)
        self.app.on_shutdown.append(self._finish)

    async def answer(self, kind: str, content: str | bytes, client: str) -> bytes:
        """The answer to one message, whose kind is in the message where it is not given; `Refused` with the reason."""
        if self.ending:
            raise Refused(503, "the server is shutting down")
        if not self.rates.allows(client, monotonic()):
            raise Refused(429, f"more than {self.limits.rate_limit:g} requests per second: try again later")
        if len(self.waiting) >= self.limits.queue:
            raise Refused(503, f"{len(self.waiting)} requests are waiting already: try again later")
        try:
            asked = json.loads(content)
            kind = kind or (asked.pop("want", "") if isinstance(asked, dict) else "")
            require(kind in KINDS, '"want" must be "policy" or "action"')
            query = self.planning.query(kind, asked)
        except (ValueError, RecursionError) as error:
            raise Refused(422, f"the message is no JSON ({str(error)[:100]})") from None
        except LWDError as error:
            raise Refused(422, str(error)) from None
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((query, future))
        self.arrived.set()
        return await future

    async def _planning(self, app: web.Application) -> AsyncIterator[None]:
        """While the application lives: plans, in one thread, for what has come together."""

        async def plan() -> None:
            while await self.arrived.wait():
                for _ in range(PAUSES):  # as long as more come
                    count = len(self.waiting)
                    await asyncio.sleep(self.limits.wait_ms / 1e3 / PAUSES if count < self.limits.batch else 0)
                    if len(self.waiting) == count:
                        break
                batch, self.waiting = self.waiting[: self.limits.batch], self.waiting[self.limits.batch :]
                if not self.waiting:
                    self.arrived.clear()
                self.batches.update(count=1, sum=len(batch))
                try:
                    queries = [query for query, _ in batch]
                    answers: list[Any] = await asyncio.get_running_loop().run_in_executor(thread, self.planning.answers, queries)
                except Exception as error:
                    answers = [error] * len(batch)
                for (_, future), found in zip(batch, answers, strict=True):
                    if future.done():  # nobody waits for it any more
                        continue
                    if isinstance(found, bytes):
                        future.set_result(found)
                    else:
                        future.set_exception(Refused(422, str(found)) if isinstance(found, LWDError) else found)

        with ThreadPoolExecutor(1) as thread:
            task = asyncio.create_task(plan())
            yield
            task.cancel()

    async def _post(self, request: web.Request) -> web.Response:
        kind = request.path.rpartition("/")[2]
        try:
            async with asyncio.timeout(PATIENCE):
                content = await request.read()
        except TimeoutError:
            raise Refused(408, f"the message did not arrive within {PATIENCE:g} seconds") from None
        return web.Response(body=await self.answer(kind, content, request.remote or ""), content_type=KINDS[kind])

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        """Answers the messages of one websocket, one after the other."""
        socket = web.WebSocketResponse(max_msg_size=self.limits.bytes, compress=False, heartbeat=30, timeout=1)
        await socket.prepare(request)
        self.sockets.add(socket)
        try:
            async for message in socket:  # it is closed where one is too large
                begin, status, self.busy = perf_counter(), 200, self.busy + 1
                try:
                    if message.type != web.WSMsgType.TEXT:
                        raise Refused(422, "a message is JSON, as text")
                    found = await self.answer("", message.data, request.remote or "")
                    await (socket.send_str(found.decode()) if found[:1] == b"{" else socket.send_bytes(found))
                except ConnectionError:  # the client has gone
                    break
                except Exception as error:
                    status, told = refusal(error)
                    await socket.send_json(told)
                finally:
                    self.busy -= 1
                    self._count(request, status, perf_counter() - begin)
        finally:
            self.sockets.discard(socket)
        return socket

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "shutting down" if self.ending else "ok"}, status=503 if self.ending else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        """Requests by path and code, how long they took, and what waits, in the text format of Prometheus."""
        n, name = sum(self.times.counts), "lwd_request_seconds"
        lines = ["# TYPE lwd_requests_total counter"]
        lines += [f'lwd_requests_total{{path="{path}",code="{code}"}} {count}' for (path, code), count in sorted(self.codes.items())]
        lines += [f"# TYPE {name} histogram", *(f'{name}_bucket{{le="{edge:g}"}} {self.times.below(edge)}' for edge in EDGES)]
        lines += [f'{name}_bucket{{le="+Inf"}} {n}', f"{name}_sum {self.times.total:.6f}", f"{name}_count {n}"]
        lines += ["# TYPE lwd_batch_rows summary", *(f"lwd_batch_rows_{key} {self.batches[key]}" for key in ("sum", "count"))]
        lines += ["# TYPE lwd_queue_rows gauge", f"lwd_queue_rows {len(self.waiting)}"]
        return web.Response(text="\n".join([*lines, ""]))

    async def _finish(self, app: web.Application) -> None:
        """Waits for the answers that are under way on websockets, and closes them. (aiohttp waits for the other requests.)"""
        self.ending = True
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self.busy:
                    await asyncio.sleep(0.01)
        await asyncio.gather(*(socket.close(code=1001) for socket in self.sockets))

    def _count(self, request: web.Request, status: int, seconds: float) -> None:
        route = request.match_info.route.resource
        self.codes[route.canonical if route else "other", status] += 1
        self.times.add(seconds)

    @web.middleware
    async def _counted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Counts what is answered, and answers what is refused."""
        begin, told = perf_counter(), None
        try:
            answer = await handler(request)
            status = answer.status
        except Exception as error:
            status, told = refusal(error)
        if status != 101:
            self._count(request, status, perf_counter() - begin)
        return answer if told is None else web.json_response(told, status=status, headers=HEADERS.get(status))


def refusal(error: Exception) -> tuple[int, dict[str, Any]]:
    """The code of HTTP, and what a client is told."""
    status, sentence = 500, "the server has failed: its log says why"
    if isinstance(error, Refused):
        status, sentence = error.status, str(error)
    elif isinstance(error, web.HTTPException):
        status, sentence = error.status, error.text or error.reason
    else:
        log.error("a request has failed", exc_info=error)
    return status, {"error": sentence, "status": status}
