"""Episodes, normaliser and snippets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import reaching
from lwd.data.normalizer import Normalizer
from lwd.data.snippets import Batch, Snippets
from lwd.episodes import Episodes, Meta, concatenate
from lwd.errors import LWDError


def faulty(**changes: object) -> Episodes:
    return replace(reaching(3, 4), **changes)  # type: ignore[arg-type]


def with_value(array: np.ndarray, index: tuple[int, int], value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ends": np.array([4, 4, 12])}, "episode 1 ends at 4"),
        ({"ends": np.array([4, 8, 13])}, "last episode ends at 13"),
        ({"ends": np.array([4, 5, 12])}, "episode 1 has one step"),
        ({"action": np.zeros((11, 2))}, "every step needs both"),
        ({"obs": with_value(reaching(3, 4).obs, (6, 1), np.nan)}, "obs is nan at episode 1, step 2, dimension 1"),
        ({"action": with_value(reaching(3, 4).action, (11, 0), np.inf)}, "action is inf at episode 2, step 3"),
        ({"action": with_value(reaching(3, 4).action, (5, 0), 600.0)}, "outside its declared range"),
        ({"tags": {"x": np.zeros(2)}}, "one entry per episode"),
        ({"tags": {"success": np.array(["yes", "no", "no"])}}, "the tag success must be numbers or true and false"),
        ({"meta": Meta(angles=(7,))}, "angle dimension 7"),
    ],
)
def test_faulty_episodes_are_refused_with_the_place(changes: dict, words: str) -> None:
    with pytest.raises(LWDError, match=words):
        faulty(**changes)


def test_split_is_disjoint_and_repeatable() -> None:
    episodes = replace(reaching(10), tags={"id": np.arange(10)})
    training, held = episodes.split(0.2)
    assert held is not None and len(training) == 8 and len(held) == 2
    assert set(training.tags["id"]) | set(held.tags["id"]) == set(range(10))
    assert training.fingerprint() == episodes.split(0.2)[0].fingerprint()
    assert training.fingerprint() != held.fingerprint()


def test_split_leaves_something_of_every_task() -> None:
    episodes = replace(reaching(6), task=np.array(["a", "b", "b", "c", "c", "c"]))
    for seed in range(5):
        training, held = episodes.split(0.5, seed)
        assert held is not None and len(held) == 3 and set(training.task) == {"a", "b", "c"}  # type: ignore[arg-type]
    assert episodes.select([0]).split(0.05)[1] is None
    assert episodes.split(0)[1] is None and episodes.split(0)[0].fingerprint() == episodes.fingerprint()
    with pytest.raises(LWDError, match="nothing would be left to train on"):
        episodes.split(0.99)


def test_concatenate_keeps_episodes_apart() -> None:
    a, b = reaching(2, 5, 0), reaching(3, 5, 1)
    both = concatenate([a, replace(b, tags={**b.tags, "more": np.arange(3)})])
    assert len(both) == 5 and np.array_equal(both.select([2, 3, 4]).obs, b.obs)
    assert list(both.tags) == ["goal"]  # what only one of them has is dropped
    with pytest.raises(LWDError, match="differ"):
        concatenate([a, replace(b, meta=Meta(env="other"))])


def test_normaliser_has_no_jump_at_a_full_turn() -> None:
    rng = np.random.default_rng(0)
    obs = np.stack([rng.uniform(0, 512, 50), np.full(50, 7.0), rng.uniform(0, 2 * np.pi, 50)], 1)
    action = rng.uniform(100, 300, (50, 2))
    normalizer = Normalizer(3, 2, angles=(2,), action_low=(0, 0), action_high=(512, 512))
    normalizer.fit(Episodes(obs, action, np.array([50])))
    a, b = (normalizer.encode_obs(torch.tensor([256.0, 7.0, angle])) for angle in (1e-4, 2 * np.pi - 1e-4))
    assert (a - b).abs().max() < 1e-3
    features = normalizer.encode_obs(torch.from_numpy(obs).float())
    assert features.shape == (50, 4) and features.abs().max() <= 1 + 1e-5
    assert (features[:, 1] == 0).all()  # constant
    raw = torch.from_numpy(action).float()
    torch.testing.assert_close(normalizer.decode_action(normalizer.encode_action(raw)), raw)
    assert normalizer.decode_action(torch.full((2,), 9.0)).max() <= 512


def test_snippets_repeat_the_ends_and_stay_in_their_episode() -> None:
    episodes = reaching(3, 6)
    normalizer = Normalizer(2, 2)
    normalizer.fit(episodes)
    data = Snippets(episodes, normalizer, length=8, before=2)
    batch = data.at(torch.tensor([0, 5, 6, 17]))
    assert batch.rows.tolist()[0] == [0, 0, 0, 1, 2, 3, 4, 5]
    assert batch.rows.tolist()[1] == [3, 4, 5, 5, 5, 5, 5, 5]
    assert batch.rows.tolist()[2] == [6, 6, 6, 7, 8, 9, 10, 11]
    assert batch.rows.tolist()[3] == [15, 16, 17, 17, 17, 17, 17, 17]
    assert batch.real.tolist()[1] == [True, True, False, False, False, False, False, False]
    assert torch.equal(batch.following[0, 2], data.obs[1])
    history = data.history(torch.tensor([0, 7]), 3)
    assert torch.equal(history[0], data.obs[[0, 0, 0]]) and torch.equal(history[1], data.obs[[6, 6, 7]])


def spread_out(span: int = 4, horizon: int = 32) -> Snippets:
    """Snippets of one long episode, with horizons of their own."""
    episodes = reaching(1, 400)
    normalizer = Normalizer(2, 2)
    normalizer.fit(episodes)
    return Snippets(episodes, normalizer, horizon, span=span)


def test_horizons_are_log_uniform_between_their_limits() -> None:
    data, generator = spread_out(), torch.Generator().manual_seed(0)
    horizon = data.sample(20_000, generator).horizon
    assert horizon.min() == 8 and horizon.max() == 128 and torch.equal(horizon, horizon.round())
    for low, high in ((8, 16), (16, 32), (32, 64), (64, 128)):  # as many in every octave
        share = ((horizon >= low) & (horizon < high)).float().mean()
        assert abs(share - 0.25) < 0.05
    assert data.at(torch.tensor([3, 4])).horizon.tolist() == [32, 32], "without a generator: the usual one"


def test_a_snippet_of_any_horizon_is_seen_at_as_many_steps_spread_evenly() -> None:
    data = spread_out()
    start = torch.zeros(3, dtype=torch.int64) + 5
    batch = Batch(data, start, torch.tensor([8.0, 32.0, 128.0]))
    assert batch.times.tolist() == [[i // 4 for i in range(32)], list(range(32)), [4 * i for i in range(32)]]
    assert torch.equal(batch.rows, 5 + batch.times) and torch.equal(batch.obs, data.obs[5 + batch.times])
    torch.testing.assert_close(batch.phase[2], torch.arange(32) / 32)
    odd = Batch(data, start, torch.tensor([9.0, 33.0, 100.0]))
    assert (odd.times[:, 0] == 0).all() and (odd.times[:, 1:] >= odd.times[:, :-1]).all() and odd.times[:, -1].tolist() == [8, 31, 96]
    late = Batch(data, torch.tensor([395]), torch.tensor([64.0]))
    assert late.rows[0, :5].tolist() == [395, 397, 399, 399, 399] and late.times[0, -1] == 62, "a phase goes on when the data has ended"
    assert late.real[0, :4].tolist() == [True, True, False, False]


@pytest.mark.parametrize("horizon", [8, 13, 32, 128])
def test_jittered_steps_cover_the_horizon_and_stay_inside(horizon: int) -> None:
    data, generator = spread_out(), torch.Generator().manual_seed(0)
    batch = Batch(data, torch.zeros(100, dtype=torch.int64), torch.full((100,), float(horizon)))
    times = batch.jittered(generator).times
    assert torch.equal(times.unique(), torch.arange(horizon)), "every step, and none beyond"
    assert (times[:, 1:] >= times[:, :-1]).all() and (times >= batch.times).all()
    assert torch.equal(times, batch.times) == (horizon in (8, 32)), "nothing to choose from where every step is seen anyway"


def test_a_span_of_one_changes_nothing_and_draws_nothing() -> None:
    data, generator = spread_out(span=1), torch.Generator().manual_seed(0)
    batch = data.sample(50, generator)
    state = generator.get_state()
    assert batch.jittered(generator) is batch and torch.equal(generator.get_state(), state)
    generator.manual_seed(0)
    assert torch.equal(batch.start, torch.randint(400, (50,), generator=generator)) and torch.equal(generator.get_state(), state)
    assert (batch.horizon == 32).all() and torch.equal(batch.times, torch.arange(32).expand(50, -1))


def test_sampling_is_uniform_over_start_steps() -> None:
    episodes = reaching(4, 5)
    normalizer = Normalizer(2, 2)
    normalizer.fit(episodes)
    data = Snippets(episodes, normalizer, 4)
    starts = data.sample(40_000, torch.Generator().manual_seed(0)).start
    share = torch.bincount(starts, minlength=20) / 40_000
    assert (share - 1 / 20).abs().max() < 0.01
