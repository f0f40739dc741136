"""`lwd explore`: what a visit obeys and tells, the server, and the page in a browser."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import torch
from aiohttp import web

from lwd.cli import main
from lwd.config import EvalSettings
from lwd.errors import LWDError
from lwd.evaluate import evaluate_run
from lwd.explore.latents import LatentMap
from lwd.explore.live import Live
from lwd.explore.models import SHIPPED
from lwd.explore.server import VISITS, Page
from lwd.policy import Generator
from lwd.training.run import Run

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def models() -> dict[str, Generator]:
    return {"LWD": Generator(SHIPPED[0], seed=0), "Diffusion Policy": Generator(SHIPPED[1], seed=0)}


@pytest.fixture(scope="module")
def latents(models: dict[str, Generator]) -> LatentMap:
    return LatentMap(models["LWD"])


@pytest.fixture
def live(models: dict[str, Generator], latents: LatentMap) -> Live:
    return Live(models, None, 0, latents)


def test_shipped_models_are_small_and_good(tmp_path: Path) -> None:
    size = sum(path.stat().st_size for folder in SHIPPED for path in folder.rglob("*") if path.is_file())
    assert size <= 6_000_000
    scores = {}
    for folder in SHIPPED:
        run = shutil.copytree(folder, tmp_path / folder.name)
        result = evaluate_run(Run(run), EvalSettings(replan_every=16, episodes=12, seed_start=200_000), workers=0)[0]
        scores[folder.name] = np.mean([episode["max_overlap"] for episode in result["records"]])
    assert scores["lwd"] > 0.85 and scores["dp"] > 0.7, scores


def test_sides_see_the_same_hand(live: Live) -> None:
    hello = live.hello()
    assert json.loads(json.dumps(hello)) and hello["scenes"][0] == hello["scenes"][1]
    before = np.array(hello["scenes"][0]["scene"]["polygons"]["block"])
    told = live.obey({"type": "push", "by": [0.05, 0.0]})
    for own in told["scenes"]:
        np.testing.assert_allclose(np.array(own["scene"]["polygons"]["block"]) - before, [[0.05, 0.0]] * 8, atol=2e-4)
    steps = [live.tick() for _ in range(20)]
    assert json.loads(json.dumps(steps))
    lwd, dp = zip(*(step["sides"] for step in steps), strict=True)
    assert [own["cause"] for own in lwd[:17]] == ["start", *[""] * 15, "interval"]
    assert lwd[16]["queries"] == dp[16]["queries"] == 2 and lwd[0]["scene"] != dp[-1]["scene"]
    expected = live.sides[0].flops[0] * 2 / 20 + live.sides[0].flops[1]
    assert lwd[-1]["flops"] == pytest.approx(expected) and dp[-1]["act_ms"] > 0
    assert 0 <= lwd[-1]["now"] <= lwd[-1]["score"] <= 1


def test_chunks_are_asked_when_they_end_policies_when_wanted(live: Live) -> None:
    live.obey({"type": "settings", "replan_every": 128, "delay": 4, "imagine": 4, "monitor": 0.2})
    told = [live.tick() for _ in range(20)][-1]["sides"]
    assert (told[0]["every"], told[0]["delay"]) == (128, 4)
    assert told[1]["every"] + told[1]["delay"] == 16  # a chunk has an end, and no world model
    first = live.sides[0]
    assert first.imagining is not None and live.sides[1].imagining is None
    live.obey({"type": "reset"})
    futures = live.tick()["sides"][0]["futures"]
    assert np.shape(futures)[0] == 4 and np.shape(futures)[2] == 2


def test_trigger_asks_after_a_push(live: Live) -> None:
    live.obey({"type": "settings", "replan_every": 128, "monitor": 0.15})
    live.tick()
    live.tick()
    live.obey({"type": "push", "by": [0.15, -0.1]})
    # the hand moved it before the observation that the policy sees next
    assert "monitor" in [live.tick()["sides"][0]["cause"] for _ in range(2)]


def test_policies_come_back_after_a_push(models: dict[str, Generator]) -> None:
    live = Live({"LWD": models["LWD"]}, None, 200_001, None)
    reached = [live.tick()["sides"][0]["now"] for _ in range(200)]
    live.obey({"type": "push", "by": [0.12, 0.1]})
    pushed = live.tick()["sides"][0]["now"]
    again = [live.tick()["sides"][0]["now"] for _ in range(200)]
    assert max(reached) > 0.85 and pushed < 0.6 and max(again) > 0.85


def test_a_latent_is_held_and_released(live: Live, latents: LatentMap) -> None:
    told = live.obey({"type": "hold", "point": 5, "from_start": True})
    assert told["held"] and told["anew"] and told["latent"] == pytest.approx(latents.places[5], abs=1e-3)
    wanted, state = latents.at(5)
    np.testing.assert_allclose(live.sides[0].kind.state(live.sides[0].raw), state, atol=1e-3)
    live.tick()
    sampled = live.sides[0].sampled
    assert sampled is not None and torch.equal(sampled, wanted)
    place = [0.2, -0.3]
    live.obey({"type": "hold", "place": place})
    told = live.tick()["sides"][0]
    assert told["latent"] == pytest.approx(place, abs=1e-3)
    assert not live.obey({"type": "release"})["held"]
    live.tick()
    assert not torch.equal(live.sides[0].sampled, latents.latent(place))  # type: ignore[arg-type]


def test_map_knows_what_it_shows(latents: LatentMap) -> None:
    told = json.loads(json.dumps(latents.describe()))
    count = len(told["places"])
    assert {"time in the episode", "side", "coverage"} <= set(told["colours"]) and told["starts"]
    assert all(len(own["values"]) == count for own in told["colours"].values())
    assert np.abs(told["places"]).max() <= 1 and 0 < told["share"][1] <= told["share"][0] <= 1
    np.testing.assert_allclose(latents.place(latents.latent([0.1, 0.4])), [0.1, 0.4], atol=1e-3)


@pytest.mark.parametrize(
    "message",
    [
        [],
        {"type": "fly"},
        {"type": []},
        {"type": "push", "by": [1e9, 0]},
        {"type": "push", "by": [float("nan"), 0]},
        {"type": "push", "by": 3},
        {"type": "settings", "replan_every": 0},
        {"type": "settings", "delay": True},
        {"type": "settings", "imagine": 10**6},
        {"type": "settings", "disturb": "storm:3"},
        {"type": "settings", "monitor": -1},
        {"type": "reset", "seed": -4},
        {"type": "hold", "point": 10**9},
        {"type": "hold", "place": ["a", None]},
    ],
)
def test_what_makes_no_sense_is_refused(live: Live, message: Any) -> None:
    with pytest.raises(LWDError):
        live.obey(message)
    live.tick()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["explore", "nowhere"], "no run directory"),
        (["explore", "--beside", "runs/x"], "needs a run"),
        (["explore", "--threads", "0"], "--threads"),
        (["explore", "--port", "70000"], "a port is a number"),
        (["explore", str(SHIPPED[1]), "--task", "reach"], "names no tasks"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err


@pytest.fixture
def url(models: dict[str, Generator], latents: LatentMap) -> Iterator[str]:
    """The page, served from a thread."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    address: list[str] = []

    async def begin() -> web.AppRunner:
        runner = web.AppRunner(Page(lambda: Live(models, None, 0, latents)).app, shutdown_timeout=2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address.append(f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}")  # type: ignore[union-attr]
        started.set()
        return runner

    def work() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(begin())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(10)
    yield address[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def test_server_obeys_steps_and_refuses(url: str) -> None:
    async def talk() -> None:
        async with aiohttp.ClientSession() as session:
            for path, kind in (("/", "text/html"), ("/app.js", "text/javascript"), ("/style.css", "text/css")):
                async with session.get(url + path) as answer:
                    assert answer.status == 200 and answer.content_type == kind
                    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
            async with session.get(url + "/v1/live", headers={"Origin": "http://elsewhere.example"}) as answer:
                assert answer.status == 403
            sockets = [await session.ws_connect(url + "/v1/live") for _ in range(VISITS)]
            for socket in sockets:
                assert (await socket.receive_json(timeout=20))["type"] == "hello"
            async with session.get(url + "/v1/live") as answer:
                assert answer.status == 503
            for socket in sockets[1:]:
                await socket.close()
            socket = sockets[0]
            for message in ("{", "[]", '{"type": "push", "by": [NaN, 0]}', "[" * 4000):
                await socket.send_str(message)
                assert (await socket.receive_json(timeout=10))["type"] == "error"
            await socket.send_json({"type": "step"})
            assert (await socket.receive_json(timeout=10))["sides"][0]["step"] == 1
            await socket.send_json({"type": "run", "on": True, "speed": 4})
            steps = [(await socket.receive_json(timeout=10))["sides"][0]["step"] for _ in range(5)]
            assert steps == [2, 3, 4, 5, 6]
            await socket.close()

    asyncio.run(talk())


@pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Debian's chromium and chromium-driver")
def test_page_in_a_browser(url: str, tmp_path: Path) -> None:
    """Drag the block and the policy recovers; click a latent and its policy plays; keys work; the console stays silent."""
    from selenium import webdriver
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    quiet = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
    for name in [*quiet.split(), f"user-data-dir={tmp_path / 'profile'}", "window-size=1400,1100"]:
        options.add_argument(f"--{name}")
    options.binary_location = str(BROWSER)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    try:
        wait = WebDriverWait(driver, 60, poll_frequency=0.1)

        def ask(script: str) -> Any:
            return driver.execute_script(f"return {script}")

        driver.get(url)
        wait.until(lambda _: ask("sides.length === 2 && sides[0].history.length > 0"))
        driver.execute_script("const s = document.getElementById('speed'); s.value = 4; s.dispatchEvent(new Event('input'))")
        wait.until(lambda _: ask("sides[0].history.at(-1).value") > 0.85)

        def drag(x: int, y: int) -> None:
            driver.execute_script("setRunning(false)")
            block, canvas = np.array(ask("sides[0].to.polygons.block")), ask("sides[0].canvas")
            begin = (np.array(block[[0, 1]].mean(0) * 0.6 + block[[4, 5]].mean(0) * 0.4) - 0.5) * canvas.size["width"]
            chain = ActionChains(driver).move_to_element_with_offset(canvas, *begin.astype(int).tolist())
            chain.click_and_hold().move_by_offset(x, y).release().perform()

        before = ask("sides[0].to.polygons.block")
        drag(60, 40)
        wait.until(lambda _: ask("sides[0].to.polygons.block") != before)
        shift = np.array(ask("sides[1].to.polygons.block")) - np.array(ask("sides[1].from.polygons.block"))
        assert np.abs(shift).max() > 0.01  # the other side feels the same hand
        driver.execute_script("setRunning(true)")
        wait.until(lambda _: ask("sides[0].history.at(-1).value") < 0.75)
        wait.until(lambda _: ask("sides[0].history.at(-1).value") > 0.85)

        driver.execute_script("setRunning(false)")
        before = ask("sides[0].to.polygons.block[0]")
        driver.execute_script("sides[0].canvas.focus()")
        ActionChains(driver).send_keys(Keys.ARROW_LEFT).perform()
        wait.until(lambda _: ask("sides[0].to.polygons.block[0]")[0] < before[0] - 0.02)

        chart = driver.find_element("id", "map")
        driver.execute_script("arguments[0].scrollIntoView()", chart)
        ActionChains(driver).move_to_element_with_offset(chart, 25, 15).click().perform()
        wait.until(lambda _: ask("held !== null && running && sides[0].history.length > 3"))
        assert ask("Math.hypot(trail.at(-1)[0] - held[0], trail.at(-1)[1] - held[1])") < 1e-3
        release = driver.find_element("id", "release")
        release.send_keys(Keys.ENTER)
        wait.until(lambda _: ask("held === null"))
        assert [entry for entry in driver.get_log("browser") if entry["level"] != "INFO"] == []
    finally:
        driver.quit()
