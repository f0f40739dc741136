"""The server: what it answers alone and in a batch, whom it refuses and why, and what its clients do when it dies."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lwd
from lwd.cli import main
from lwd.config import DiffusionPolicyConfig, Stage
from lwd.deploy import AsyncController, Policy, RemoteGenerator
from lwd.deploy.batch import Planning
from lwd.deploy.limits import Limits, Rates
from lwd.deploy.policy import parse
from lwd.deploy.remote import local
from lwd.errors import LWDError
from test_deploy import made

aiohttp = pytest.importorskip("aiohttp")
from lwd.deploy.server import Service  # noqa: E402

HERE = [250.0, 50.0]
TOKEN = "a long random word"


class Server:
    """A service in a thread of this process, with what it is asked."""

    def __init__(self, planning: Any, token: str = "", **limits: Any) -> None:
        self.service, self.token = Service(planning, Limits(**limits), token), token

    async def _serve(self) -> None:
        runner = aiohttp.web.AppRunner(self.service.app, access_log=None)
        await runner.setup()
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port, self.loop, self.end = runner.addresses[0][1], asyncio.get_running_loop(), asyncio.Event()
        self.url = f"http://127.0.0.1:{self.port}"
        await self.end.wait()
        await runner.cleanup()

    def __enter__(self) -> Server:
        self.thread = Thread(target=lambda: asyncio.run(self._serve()))
        self.thread.start()
        while not hasattr(self, "url"):
            time.sleep(0.001)
        return self

    def __exit__(self, *error: object) -> None:
        self.loop.call_soon_threadsafe(self.end.set)
        self.thread.join()

    def ask(self, path: str, message: Any = None, method: str = "POST", **headers: str) -> tuple[int, Any]:
        """Status and answer; JSON is read."""
        body = message if message is None or isinstance(message, bytes) else json.dumps(message).encode()
        own = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            own.request(
                method,
                path,
                body,
                {"Authorization": f"Bearer {self.token}"} | {key.replace("_", "-"): value for key, value in headers.items()},
            )
            answer = own.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if "json" in answer.headers["Content-Type"] else content
        finally:
            own.close()

    def metrics(self) -> dict[str, float]:
        """The numbers of /metrics."""
        _, text = self.ask("/metrics", method="GET")
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.decode().splitlines() if line[0] != "#"}


@pytest.fixture(scope="module")
def planning(trained: Path) -> Planning:
    return Planning(str(trained))


@pytest.fixture(scope="module")
def server(planning: Planning) -> Iterator[Server]:
    with Server(planning) as own:
        yield own


def test_it_answers_as_torch_does(server: Server, trained: Path) -> None:
    """A policy file as `lwd generate` writes it, or an action."""
    plan = lwd.load(trained, seed=3).plan(np.array(HERE))
    status, content = server.ask("/v1/policy", {"obs": HERE, "seed": 3})
    policy = parse(content)
    assert status == 200 and policy.about["seed"] == "3" and policy.about["run"] == str(trained)
    for t in (0, 5):
        np.testing.assert_allclose(policy.act(HERE, t), plan.act(np.array(HERE), t), atol=1e-5 * 512)
    status, answer = server.ask("/v1/action", {"obs": HERE, "seed": 3})
    assert status == 200 and answer["seed"] == 3
    np.testing.assert_allclose(answer["action"], plan.act(np.array(HERE), 0), atol=1e-5 * 512)
    first, second = (server.ask("/v1/action", {"obs": HERE})[1] for _ in range(2))
    assert first["seed"] != second["seed"] and first["action"] != second["action"]


def test_requests_at_the_same_time_are_one_batch(planning: Planning) -> None:
    """And get what they would get alone."""
    with Server(planning, wait_ms=200, batch=16) as server, ThreadPoolExecutor(16) as clients:
        messages = [{"obs": [200.0 + i, 50.0], "seed": i} for i in range(16)]
        kinds = ["action" if i % 4 == 0 else "policy" for i in range(16)]
        together = list(clients.map(lambda kind, message: server.ask(f"/v1/{kind}", message), kinds, messages))
        told = server.metrics()
        assert told["lwd_batch_rows_sum"] == 16 and told["lwd_batch_rows_count"] < 6
        for kind, message, (status, answer) in zip(kinds, messages, together, strict=True):
            _, alone = server.ask(f"/v1/{kind}", message)
            assert status == 200
            if kind == "action":
                np.testing.assert_allclose(answer["action"], alone["action"], rtol=1e-4)
            else:
                weights = [parse(own).tensors["weights"] for own in (answer, alone)]
                np.testing.assert_allclose(*weights, atol=1e-4 * np.abs(weights[0]).max())
        for name in ('lwd_requests_total{path="/v1/policy",code="200"}', 'lwd_request_seconds_bucket{le="+Inf"}', "lwd_queue_rows"):
            assert name in told
        assert server.metrics()['lwd_requests_total{path="/v1/policy",code="200"}'] == 24


REFUSED: list[tuple[Any, str]] = [
    (b"{", "the message is no JSON"),
    (b"\xff", "the message is no JSON"),
    (b"[" * 100_000, "the message is no JSON"),
    (b'{"obs": [1, NaN]}', "obs holds a number that is NaN, infinite or beyond float32"),
    (b'{"obs": [1, -Infinity]}', "NaN, infinite"),
    ({"obs": [1, 1e39]}, "beyond float32"),
    ({"obs": [1, 10**400]}, "beyond float32"),
    ({"obs": [1]}, "obs must hold 2 numbers"),
    ({"obs": [[1, 2, 3]]}, "obs must hold 2 numbers"),
    ({"obs": [1, "2"]}, "obs must hold 2 numbers"),
    ({"obs": [1, None]}, "obs must hold 2 numbers"),
    ({"obs": [1, True]}, "obs must hold 2 numbers"),
    ({"obs": [[1, [2]]]}, "obs must hold 2 numbers"),
    ({"obs": {}}, "obs must hold 2 numbers"),
    ([1, 2], "a message is an object such as"),
    ({"observation": HERE}, "a message is an object such as"),
    ({"obs": HERE, "noise": 1}, "a message has obs, task and seed, not noise"),
    ({"obs": HERE, "task": "left"}, "the data of this model names no tasks"),
    ({"obs": HERE, "task": 5}, "task must be the name of a task"),
    ({"obs": HERE, "seed": -1}, "seed must be a whole number"),
    ({"obs": HERE, "seed": 1.5}, "seed must be a whole number"),
]


@pytest.mark.parametrize(("message", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_wrong_with_a_message_is_said(server: Server, message: Any, sentence: str) -> None:
    status, answer = server.ask("/v1/policy", message)
    assert status == answer["status"] == 422 and sentence in answer["error"]


def test_tasks_and_chunks() -> None:
    """A model of several tasks needs one that it knows; a model without policies gives actions."""
    from conftest import tiny_method

    several = Planning.__new__(Planning)
    several.method = made(tiny_method(), tasks=("left", "right"), action_low=None, action_high=None)
    several.own = lwd.Generator.__new__(lwd.Generator)
    several.own.tasks, several.own.method, several.own.planner, several.about = (
        several.method.spec.tasks,
        several.method,
        several.method,
        {},
    )
    for task, sentence in (("up", "does not know the task up"), (None, "trained on several tasks: say which")):
        with pytest.raises(LWDError, match=sentence):
            several.query("action", {"obs": [1, 2, 3], "task": task})
    queries = [several.query("action", {"obs": [1, 2, 3], "task": task, "seed": 0}) for task in ("left", "right")]
    left, right = (json.loads(answer)["action"] for answer in several.answers(queries))  # type: ignore[arg-type]
    assert left != right
    chunks = DiffusionPolicyConfig(diffusion=Stage(1, 1), denoiser_width=8, denoiser_depth=1, history=2)
    several.method = several.own.method = several.own.planner = made(chunks)
    several.own.tasks = ()
    past = [[1, 2, 3], [1, 2, 4]]
    refused, answer = several.answers([several.query(kind, {"obs": past}) for kind in ("policy", "action")])
    assert "plans actions instead of policies" in str(refused) and len(json.loads(answer)["action"]) == 2  # type: ignore[arg-type]
    with pytest.raises(LWDError, match="obs must hold 3 numbers, or 2 lists of as many"):
        several.query("policy", {"obs": past[:1]})


def test_who_may_ask(planning: Planning) -> None:
    """With a token only who knows it; without one only this computer, and no page of a browser from elsewhere."""
    message = {"obs": HERE}
    with Server(planning, TOKEN) as server:
        assert server.ask("/v1/action", message)[0] == 200
        for wrong in ("", "Bearer ", f"Bearer {TOKEN}x", "Bearer \xe9"):
            status, answer = server.ask("/v1/action", message, Authorization=wrong)
            assert status == 401 and "a token is needed" in answer["error"]
        assert server.ask("/metrics", method="GET", Authorization="")[0] == 401
        assert server.ask("/healthz", method="GET", Authorization="") == (200, {"status": "ok"})
        with pytest.raises(LWDError, match=r"refuses \(401\): a token is needed"):
            RemoteGenerator(server.url)(HERE)
        with closing(RemoteGenerator(server.url, TOKEN)) as generator:
            assert isinstance(generator(HERE), Policy) and isinstance(generator([HERE]), Policy)
    with Server(planning) as server:
        assert server.ask("/v1/action", message, Host="evil.example:80")[0] == 403
        assert server.ask("/v1/action", message, Origin="http://evil.example")[0] == 403
        assert server.ask("/v1/action", message, Origin=server.url)[0] == 200
        assert server.ask("/nowhere", message)[0] == 404 and server.ask("/v1/action", method="GET")[0] == 405


def test_an_address_that_others_reach_demands_a_token(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["serve", str(trained), "--port", "0"]
    assert main([*words, "--host", "0.0.0.0"]) == 2 and "others can reach 0.0.0.0: a token is needed" in capsys.readouterr().err
    empty = tmp_path / "token"
    empty.touch()
    assert main([*words, "--token-file", str(empty)]) == 2 and "token holds no token: --token-file names" in capsys.readouterr().err
    assert main([*words, "--token-file", str(tmp_path / "none")]) == 2 and "none holds no token" in capsys.readouterr().err
    assert main([*words, "--queue", "0"]) == 2 and "must be above 0" in capsys.readouterr().err


def test_limits(planning: Planning) -> None:
    """Size, rate and queue; and after them all is as before."""
    with Server(planning, bytes=2000, rate_limit=20, queue=2, batch=1) as server:
        status, answer = server.ask("/v1/policy", b" " * 3000)
        assert status == answer["status"] == 413
        codes = [server.ask("/v1/action", {"obs": HERE})[0] for _ in range(40)]
        assert codes[:15] == [200] * 15 and 429 in codes
        server.service.rates = Rates(1e6)
        own = server.service.planning
        slow = type("Slow", (), {"query": own.query, "answers": lambda self, queries: time.sleep(0.2) or own.answers(queries)})
        server.service.planning = slow()
        with ThreadPoolExecutor(8) as clients:
            codes = sorted(code for code, _ in clients.map(lambda _: server.ask("/v1/action", {"obs": HERE}), range(8)))
        assert set(codes) == {200, 503} and codes.count(503) >= 4
        server.service.planning = type("Broken", (), {"query": own.query, "answers": lambda self, queries: 1 / 0})()
        assert server.ask("/v1/action", {"obs": HERE}) == (500, {"error": "the server has failed: its log says why", "status": 500})
        server.service.planning = own
        assert server.ask("/v1/action", {"obs": HERE})[0] == 200 and server.metrics()["lwd_queue_rows"] == 0


def test_rates() -> None:
    """As many at once as in a second, then one by one; clients do not disturb each other, and who is gone is forgotten."""
    rates = Rates(10)
    assert [rates.allows("a", 0.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert rates.allows("b", 0.0) and rates.allows("a", 0.1) and not rates.allows("a", 0.1)
    assert [Rates(0.5).allows("a", 0.0)] == [True]
    for i in range(5000):
        rates.allows(str(i), 10.0 + i)
    assert len(rates.due) <= 1001


def test_a_websocket(server: Server) -> None:
    """Policies, actions and refusals over one connection, in order; it is closed where a message is too large."""

    async def talk() -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.url}/v1/ws") as socket:
            await socket.send_json({"want": "policy", "obs": HERE, "seed": 1})
            await socket.send_json({"want": "action", "obs": HERE, "seed": 1})
            policy, action = parse(await socket.receive_bytes()), await socket.receive_json()
            np.testing.assert_allclose(policy.act(HERE), action["action"], rtol=1e-4)
            for bad, sentence in (({"obs": HERE}, '"want" must be'), ({"want": "policy", "obs": [1]}, "2 numbers"), (5, '"want" must be')):
                await socket.send_json(bad)
                answer = await socket.receive_json()
                assert answer["status"] == 422 and sentence in answer["error"]
            await socket.send_bytes(b"\x80\x04.")
            assert "JSON, as text" in (await socket.receive_json())["error"]
            await socket.send_str(" " * (1 << 19))
            assert (await socket.receive()).data == 1009

    asyncio.run(talk())
    assert server.metrics()['lwd_requests_total{path="/v1/ws",code="422"}'] >= 4


numbers = st.floats(allow_subnormal=False) | st.integers() | st.sampled_from([1e300, -1e300, 2**63])
simple = st.none() | st.booleans() | numbers | st.text(max_size=8)
values = st.recursive(simple, lambda own: st.lists(own, max_size=4) | st.dictionaries(st.text(max_size=4), own, max_size=3), max_leaves=12)
keys = {"obs": values | st.lists(numbers, min_size=2, max_size=2), **dict.fromkeys(("task", "seed", "want", "x"), values)}
objects = st.fixed_dictionaries({}, optional=keys).map(lambda own: json.dumps(own).encode())
bodies = st.binary(max_size=200) | objects | st.binary(max_size=20).map(lambda own: b'{"obs": [1, 2], ' + own)


@settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(body=bodies, path=st.sampled_from(["/v1/policy", "/v1/action"]))
def test_no_message_breaks_it(server: Server, body: bytes, path: str) -> None:
    status, answer = server.ask(path, body)
    assert status in (200, 422) and (status == 200 or (answer["error"] and answer["status"] == 422))


@contextmanager
def process(*words: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`lwd serve` in a process of its own, and its address."""
    command = [sys.executable, "-m", "lwd.cli", "serve", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}) as own:
        try:
            assert own.stdout is not None
            found = re.search(r"http://\S+", own.stdout.readline())
            assert found
            yield own, found[0]
        finally:
            own.kill()


def test_a_robot_outlives_its_server(trained: Path) -> None:
    """kill -9 under load: the last policy goes on stepping, and when a server is there again, so are new policies. SIGTERM: a request that
    waits for its batch is answered, and the process ends with 0."""
    sent: list[Any] = []

    def send(action: Any) -> None:
        sent.append(action)
        controller.observe(HERE)

    def until(condition: Callable[[], bool]) -> None:
        for _ in range(6000):
            if condition():
                return
            time.sleep(0.01)
        raise AssertionError(controller.summary())

    with ExitStack() as stack:
        own, url = stack.enter_context(process(str(trained), "--port", "0"))
        generator = stack.enter_context(closing(RemoteGenerator(url, timeout=5)))
        controller = AsyncController(generator, 100, safe=(0, 0))
        controller.observe(HERE)
        robot = Thread(target=controller.run, args=(send,))
        robot.start()
        until(lambda: controller.counts["swapped"] > 3)
        own.kill()
        until(lambda: controller.counts["failed"] > 2)
        steps, swapped = controller.counts["steps"], controller.counts["swapped"]
        until(lambda: controller.counts["steps"] > steps + 20)
        assert controller.counts["swapped"] == swapped and all("cannot be reached" in reason for reason in controller.reasons)
        other = stack.enter_context(closing(RemoteGenerator(url, timeout=20)))
        with process(str(trained), "--port", url.rpartition(":")[2], "--wait-ms", "2000") as (again, _), ThreadPoolExecutor(1) as client:
            until(lambda: controller.counts["swapped"] > swapped)
            controller.stop()
            robot.join()
            assert controller.counts["safe"] == 0 and sent[-1].tolist() == [0, 0]
            waiting = client.submit(other, HERE)
            time.sleep(0.2)
            again.send_signal(signal.SIGTERM)
            assert isinstance(waiting.result(), Policy) and again.wait(20) == 0
        with pytest.raises(LWDError, match="cannot be reached"):
            other(HERE)


def test_a_generator_in_a_process_of_its_own(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with local(str(trained), "--sampler-steps", "2") as generator:
        assert generator(HERE).about["sampler"] == "ddim2"
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LWDError, match="`lwd serve nowhere` did not start"), local("nowhere"):
        pass


def test_a_killed_robot_leaves_no_server_behind(trained: Path) -> None:
    code = f"import time; from lwd.deploy.remote import local\nwith local({str(trained)!r}) as own:"
    code += "\n    print(own.url, flush=True)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as robot:
        assert robot.stdout is not None
        own = RemoteGenerator(robot.stdout.readline().strip(), retries=0)
        own(HERE)
        robot.kill()
    for _ in range(100):
        try:
            own(HERE)
        except LWDError as error:
            if "cannot be reached" in str(error):
                return
        time.sleep(0.1)
    pytest.fail("the server lives on")


def test_addresses_that_are_none() -> None:
    for url in ("localhost:8000", "ftp://a", "http://", "http://a:99999", "http://a:x"):
        with pytest.raises(LWDError, match="is no address of a server"):
            RemoteGenerator(url)
