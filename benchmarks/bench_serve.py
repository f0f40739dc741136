"""What batching brings to a server of policies: python benchmarks/bench_serve.py [--clients 64] [--out FILE]

`lwd serve` in a process of its own, and clients in another one, each of which asks again as soon as it has its answer, over one connection.
Batched: up to as many requests as there are clients are planned for together. Unbatched: `--batch 1`. Both take turns. Models of the
presets `pusht-fast` and `pusht` with random weights (the time does not depend on the training); answers are policy files. Server and
clients share the machine, as they would not in earnest.

--fuzz N then sends N malformed and oversized messages, each made by hypothesis, and tells whether the server answers each of them, still
answers a good one, and how much its memory has grown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import aiohttp
import numpy as np

from lwd.data.formats.npz import save_npz
from lwd.data.read import read
from lwd.files import write_json
from lwd.presets import PRESETS
from lwd.timing import hardware
from lwd.training.train import train

FIRST = [float(x) for x in np.linspace(150, 350, 18)]  # key points of PushT


def brief_run(preset: str, folder: Path) -> Path:
    """A run of a preset's own networks, after two training steps."""
    config = PRESETS[preset][1]
    method = replace(config.method, imagine=False, improve=False)
    for name, stage in method.stages.items():
        method = replace(method, **{name: replace(stage, steps=2, batch=8, warmup=1)})
    save_npz(read("embedded").select(range(10)), folder / "data.npz")
    run = replace(config, data=str(folder / "data.npz"), out=str(folder / preset), method=method, threads=1)
    return train(run, quiet=True).path


@contextmanager
def server(run: Path, *options: str) -> Iterator[tuple[str, int]]:
    """Address and process number of a server."""
    command = [sys.executable, "-m", "lwd.cli", "serve", str(run), "--port", "0", "--rate-limit", "1e9", "--queue", "100000", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found
            yield found[0], process.pid
        finally:
            process.terminate()


async def load(url: str, clients: int, seconds: float) -> dict[str, float]:
    """Answers per second, and what a client waits for one."""
    waited: list[float] = []

    async def client(session: aiohttp.ClientSession, begin: float) -> None:
        while perf_counter() - begin < seconds:
            asked = perf_counter()
            async with session.post(f"{url}/v1/policy", json={"obs": FIRST}) as answer:
                content = await answer.read()
                assert answer.status == 200, content
            waited.append(perf_counter() - asked)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await client(session, perf_counter() - seconds + 0.5)  # warm
        waited.clear()
        before, begin = await batches(session, url), perf_counter()
        await asyncio.gather(*(client(session, begin) for _ in range(clients)))
        took, after = perf_counter() - begin, await batches(session, url)
    per_batch = (after[0] - before[0]) / (after[1] - before[1])
    p50, p95 = np.percentile(waited, (50, 95)) * 1e3
    return {"per_second": len(waited) / took, "p50_ms": float(p50), "p95_ms": float(p95), "rows_per_batch": per_batch}


async def batches(session: aiohttp.ClientSession, url: str) -> tuple[float, float]:
    """Rows and batches that the server has planned for."""
    async with session.get(f"{url}/metrics") as answer:
        told = dict(line.rsplit(" ", 1) for line in (await answer.text()).splitlines())
    return float(told["lwd_batch_rows_sum"]), float(told["lwd_batch_rows_count"])


def throughput(preset: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Batched and unbatched, in turns."""
    run, found = brief_run(preset, folder), {"batched": list[Any](), "unbatched": list[Any]()}
    for _ in range(options.rounds):
        for name, batch in (("batched", options.clients), ("unbatched", 1)):
            with server(run, "--batch", str(batch), *(("--wait-ms", "0") if batch == 1 else ())) as (url, _):
                found[name].append(asyncio.run(load(url, options.clients, options.seconds)))
    told = {name: {key: round(median(own[key] for own in rounds), 2) for key in rounds[0]} for name, rounds in found.items()}
    ratios = [one["per_second"] / other["per_second"] for one, other in zip(*found.values(), strict=True)]
    return {**told, "ratio": round(median(ratios), 2), "ratios": [round(ratio, 2) for ratio in ratios]}


def fuzz(run: Path, messages: int) -> dict[str, Any]:
    """Sends messages that are wrong in every way that hypothesis finds."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    numbers = st.floats(allow_subnormal=False) | st.integers()  # (torch has turned them off here)
    simple = st.none() | st.booleans() | numbers | st.text(max_size=20)
    values = st.recursive(
        simple, lambda own: st.lists(own, max_size=20) | st.dictionaries(st.text(max_size=4), own, max_size=4), max_leaves=30
    )
    keys = {"obs": values | st.lists(numbers, min_size=18, max_size=18), **dict.fromkeys(("task", "seed", "want", "x"), values)}
    objects = st.fixed_dictionaries({}, optional=keys).map(lambda own: json.dumps(own).encode())
    large = st.integers(min_value=1 << 18, max_value=1 << 20).map(lambda size: b'{"obs": [' + b"1," * (size // 2))
    bodies = st.one_of(st.binary(max_size=400), objects, objects, large, st.binary(max_size=20).map(lambda own: b'{"obs": [1, 2], ' + own))
    codes: Counter[str] = Counter()

    def memory(pid: int) -> float:
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024  # type: ignore[index]

    with server(run) as (url, pid), asyncio.Runner() as runner:
        session = runner.run(_session())
        at: list[float] = []

        async def ask(body: bytes) -> None:
            try:
                async with session.post(f"{url}/v1/policy", data=body) as answer:
                    await answer.read()
                    codes[str(answer.status)] += 1
            except aiohttp.ClientConnectionError:  # a message that is too large is refused before it was read
                codes["closed"] += 1

        @settings(max_examples=messages, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(body=bodies)
        def send(body: bytes) -> None:
            runner.run(ask(body))
            if sum(codes.values()) in (messages // 10, messages // 2):
                at.append(memory(pid))

        send()
        at.append(memory(pid))
        before = codes["200"]
        runner.run(ask(json.dumps({"obs": FIRST}).encode()))
        told = {"messages": sum(codes.values()) - 1, "codes": dict(codes), "answers_afterwards": codes["200"] == before + 1}
        runner.run(session.close())
    return {**told, "memory_mb": [round(own, 1) for own in at]}


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="What batching brings to a server of policies.")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fuzz", type=int, default=0)
    parser.add_argument("--presets", nargs="*", default=["pusht-fast", "pusht"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "results" / "serving" / "results.json")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/bench_serve.py", *sys.argv[1:]]),
        "clients": options.clients,
        "hardware": hardware(),
    }
    result |= {"target_ratio": 5, "presets": {}}
    with tempfile.TemporaryDirectory() as folder:
        for preset in options.presets:
            result["presets"][preset] = throughput(preset, Path(folder), options)
            print(preset, result["presets"][preset], flush=True)
        if options.fuzz:
            result["fuzz"] = fuzz(Path(folder) / options.presets[0], options.fuzz)
            print("fuzz", result["fuzz"])
    write_json(options.out, result)


if __name__ == "__main__":
    main()
