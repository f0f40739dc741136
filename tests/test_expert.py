"""The scripted PushT expert, collection, the embedded demonstrations and their file format."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gym_pusht")
pytest.importorskip("pymunk")

from gym_pusht.envs.pusht import PushTEnv

from lwd.data.collect import Job, collect, first_contact, solve
from lwd.data.embedded import embedded_path
from lwd.data.episodes import Episodes, Meta
from lwd.data.experts.pusht_geometry import distance, routes, to_block
from lwd.data.npz import load_npz, save_npz
from lwd.envs.pusht import set_state
from lwd.errors import LWDError


@pytest.fixture(scope="module")
def embedded() -> Episodes:
    return load_npz(embedded_path())


def replay(episodes: Episodes, episode: int) -> list[float]:
    """Coverage after every recorded action, carried out open loop in gym-pusht's own environment from the first recorded state."""
    env = PushTEnv(obs_type="state")
    rows = slice(episodes.starts[episode], episodes.ends[episode])
    set_state(env, episodes.obs[rows][0])
    return [env.step(action)[4]["coverage"] for action in episodes.action[rows]]


def test_expert_solves_starts() -> None:
    for start in range(2):
        solution = solve(Job(seed=123, start=start, attempt=0))
        assert solution.solved and solution.coverage > 0.95
        assert len(solution.states) == len(solution.actions) <= 300


def test_collection_does_not_depend_on_workers(tmp_path: Path) -> None:
    one = collect(2, seed=4, repeats=2, workers=1, progress=False)
    two = collect(2, seed=4, repeats=2, workers=2, progress=False)
    save_npz(one, tmp_path / "one.npz")
    save_npz(two, tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert one.tags["start"].tolist() == [0, 0] and one.tags["attempt"].tolist() == [0, 1]
    np.testing.assert_array_equal(one.obs[one.starts[0]], one.obs[one.starts[1]])


def test_collection_refuses_nonsense() -> None:
    with pytest.raises(LWDError, match="no scripted expert for 'ant'"):
        collect(2, env="ant")
    with pytest.raises(LWDError, match="episodes must be at least 1"):
        collect(0)


def test_routes_keep_clear_of_the_block() -> None:
    pose = np.array([256.0, 220.0, 0.7])
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = pose[:2] + 170.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    _, paths = routes(ring[0], ring, pose)
    for path in paths:
        share = np.linspace(0, 1, 50)[:, None]
        for a, b in pairwise(path):
            assert distance(to_block(a + share * (b - a), pose)).min() > 15.0


def test_embedded_statistics(embedded: Episodes) -> None:
    assert len(embedded) >= 200
    assert embedded.lengths.mean() <= 180 and embedded.lengths.max() <= 300
    assert embedded_path().stat().st_size < 2_000_000
    assert "synthetic" in embedded.meta.description
    assert (embedded.meta.env, embedded.meta.obs, embedded.meta.angles) == ("pusht", "state", (4,))
    assert (embedded.tags["coverage"] >= 0.95).all()


def test_embedded_actions_are_those_of_a_steady_hand(embedded: Episodes) -> None:
    lead = np.linalg.norm(embedded.action - embedded.obs[:, :2], axis=1)
    assert lead.max() < 30.0  # pixels
    inside = np.ones(embedded.steps, bool)
    inside[embedded.ends - 1] = False
    moved = np.linalg.norm(np.diff(embedded.obs[:, :2], axis=0), axis=1)[inside[:-1]]
    assert (moved < 1.0).mean() < 0.01  # no pauses
    assert moved.max() < 20.0


def test_embedded_episodes_replay(embedded: Episodes) -> None:
    for episode in np.linspace(0, len(embedded) - 1, 6).astype(int):
        coverage = replay(embedded, episode)
        assert coverage[-1] > 0.95 and max(coverage[:-1]) <= 0.95
        assert coverage[-1] == pytest.approx(float(embedded.tags["coverage"][episode]), abs=1e-6)


def test_same_start_is_begun_from_different_sides(embedded: Episodes) -> None:
    starts, sides = embedded.tags["start"], embedded.tags["side"]
    several = 0
    for start in np.unique(starts):
        episodes = np.flatnonzero(starts == start)
        firsts = embedded.obs[embedded.starts[episodes]]
        np.testing.assert_array_equal(firsts, np.broadcast_to(firsts[0], firsts.shape))
        recomputed = [first_contact(embedded.obs[embedded.starts[e] : embedded.ends[e]]) for e in episodes]
        assert recomputed == sides[episodes].tolist()
        several += len(set(recomputed)) > 1
    assert several >= 10


def small(task: bool = True) -> Episodes:
    rng = np.random.default_rng(0)
    return Episodes(
        obs=rng.normal(size=(7, 3)),
        action=rng.uniform(size=(7, 2)),
        ends=np.array([3, 7]),
        task=np.array(["öffnen", "close"]) if task else None,
        tags={"operator": np.array(["a", "bc"]), "skill": np.array([1, 2]), "loose": np.array(["x", "y"], object)},
        meta=Meta("pusht", "state", (2,), (0.0, 0.0), (1.0, 1.0), "synthetic"),
    )


@pytest.mark.parametrize("task", [True, False])
def test_npz_round_trip(tmp_path: Path, task: bool) -> None:
    episodes, path = small(task), tmp_path / "folder" / "set.npz"
    save_npz(episodes, path)
    loaded = load_npz(path)
    assert loaded.fingerprint() == episodes.fingerprint() and loaded.meta == episodes.meta
    assert {name: values.tolist() for name, values in loaded.tags.items()} == {k: v.tolist() for k, v in episodes.tags.items()}
    assert [file.name for file in path.parent.iterdir()] == ["set.npz"]


def test_npz_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.npz"
    save_npz(small(), path)
    before = path.read_bytes()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "write_array", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_npz(replace(small(), task=None), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["set.npz"]


def test_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    save_npz(small(), path)
    whole = path.read_bytes()
    for damaged in (b"", b"not a zip", whole[: len(whole) // 2], whole[:60] + bytes(20) + whole[80:]):
        path.write_bytes(damaged)
        with pytest.raises(LWDError, match=r"set\.npz cannot be read as \.npz: it is damaged"):
            load_npz(path)
    with pytest.raises(LWDError, match="there is no such file"):
        load_npz(tmp_path / "other.npz")


def test_npz_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    path, good = tmp_path / "set.npz", {"obs": np.zeros((4, 2)), "action": np.zeros((4, 1)), "ends": np.array([4])}

    def refuse(match: str, **changes: object) -> None:
        np.savez(path, **{k: v for k, v in {**good, **changes}.items() if v is not None})  # type: ignore[arg-type]
        with pytest.raises(LWDError, match=match):
            load_npz(path)

    refuse("has no action, ends .*it has obs", action=None, ends=None)
    refuse("obs must hold numbers", obs=np.array(["a"]))
    refuse("holds pickled objects", obs=np.array([{}], object))
    refuse("must hold row numbers", ends=np.array([3.5]))
    refuse("nan at episode 0, step 0", obs=np.full((4, 2), np.nan))
    refuse("meta must be a JSON object", meta=np.array("{"))
    refuse("the last episode ends at 3", ends=np.array([3]), meta=np.array(json.dumps({"env": "x", "later": 1})))


def test_unknown_embedded_set_is_refused() -> None:
    with pytest.raises(LWDError, match="choose one of pusht"):
        embedded_path("ant")
