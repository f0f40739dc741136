"""The scripted PushT expert, its collection, and the embedded demonstrations."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gym_pusht")
pytest.importorskip("pymunk")

from gym_pusht.envs.pusht import PushTEnv

from lwd.cli import main
from lwd.data.collect import collect
from lwd.data.embedded import embedded_path
from lwd.data.formats.npz import load_npz
from lwd.envs.pusht.expert.collecting import Expert, first_contact
from lwd.envs.pusht.expert.routes import distance, routes, to_block
from lwd.envs.pusht.geometry import set_state
from lwd.episodes import Episodes
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
    for episode, solved in Expert(repeats=1).attempts("", seed=123, numbers=range(2)):
        assert solved and episode.tags["coverage"] > 0.95
        assert episode.steps <= 300


def test_the_embedded_demonstrations_can_be_made_again(embedded: Episodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "collect", "pusht", str(tmp_path / "a.npz"), "--seed", "0", "--repeats", "3", "--episodes"]
    assert main([*command, "3", "--workers", "2"]) == 0
    assert "100%" in capsys.readouterr().out
    assert main([*command, "5", "--workers", "1"]) == 0  # extends the file
    extended, first = load_npz(tmp_path / "a.npz"), embedded.select(range(5))
    for name in ("obs", "action", "ends"):
        np.testing.assert_array_equal(getattr(extended, name), getattr(first, name))
    assert {name: list(values) for name, values in extended.tags.items()} == {name: list(values) for name, values in first.tags.items()}
    assert extended.meta == embedded.meta
    collect("pusht", tmp_path / "b.npz", episodes=5, seed=0, repeats=3, workers=1, progress=False)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert first.tags["start"].tolist() == [0, 0, 0, 1, 2] and first.tags["attempt"].tolist() == [0, 1, 2, 0, 0]


@pytest.mark.parametrize("repeats", [1, 2, 3, 7])
def test_attempts_are_numbered_without_gaps(repeats: int) -> None:
    expert = Expert(repeats)
    places = [expert.place(number) for number in range(40)]
    assert places == sorted(set(places))
    assert all(attempt < (repeats if start % 5 == 0 else 1) for start, attempt in places)
    tags = [{"start": np.array([start]), "attempt": np.array([attempt])} for start, attempt in places]
    assert [expert.number(tag, 0) for tag in tags] == list(range(40))


def test_collection_refuses_nonsense(tmp_path: Path) -> None:
    out = tmp_path / "set.npz"
    with pytest.raises(LWDError, match="unknown environment 'hexapod'"):
        collect("hexapod", out)
    with pytest.raises(LWDError, match="episodes must be at least 1"):
        collect("pusht", out, episodes=0)
    with pytest.raises(LWDError, match="repeats must be at least 1"):
        collect("pusht", out, repeats=0)
    with pytest.raises(LWDError, match=r"a file that ends in \.npz"):
        collect("pusht", tmp_path / "set.zarr")


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
    assert (embedded.meta.env, embedded.meta.obs_kind, embedded.meta.angles) == ("pusht", "state", (4,))
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


def test_demonstrations_under_displacement_have_clean_labels(tmp_path: Path) -> None:
    collect("pusht", tmp_path / "a.npz", episodes=2, seed=0, disturb="displace:30", workers=1, progress=False)
    episodes = load_npz(tmp_path / "a.npz")
    assert "under displace:30" in episodes.meta.description
    moves = np.abs(np.diff(episodes.obs[: episodes.ends[0], 2:4], axis=0)).max(axis=1)
    turned = np.abs(np.diff(episodes.obs[: episodes.ends[0], 4]))
    assert (moves[turned < 1e-6] > 3).any(), "a jump that no push has made: the block moves without turning"
    with pytest.raises(LWDError, match="displace:PIXELS, or none"):
        collect("pusht", tmp_path / "b.npz", episodes=1, disturb="drift:2")
    with pytest.raises(LWDError, match="displace:30"):
        collect("pusht", tmp_path / "a.npz", episodes=3, seed=0, workers=1, progress=False)
