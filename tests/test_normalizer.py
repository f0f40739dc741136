"""Raw units in, features out: ranges that are hardly there are not blown up, and nothing far outside the data gets through."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lwd.data.normalizer import FARTHEST, Normalizer
from lwd.episodes import Episodes


def fitted(*columns: np.ndarray, angles: tuple[int, ...] = ()) -> Normalizer:
    obs = np.stack(columns, 1)
    normalizer = Normalizer(obs.shape[1], 1, angles)
    normalizer.fit(Episodes(obs, np.zeros((len(obs), 1)), np.array([len(obs)])))
    return normalizer


RAMP = np.linspace(-1, 1, 50)


def test_a_dimension_that_hardly_varies_is_not_blown_up() -> None:
    """A range of 6e-6 beside one of 2: a change of 0.01 is large, but not 3,570."""
    normalizer = fitted(RAMP, 0.3 + 3e-6 * RAMP, np.full(50, 7.0))
    seen = normalizer.encode_obs(torch.tensor([[0.5, 0.3, 7.0], [0.5, 0.3 + 5e-5, 7.0], [0.5, 0.31, 8.0]]))
    assert seen[0].tolist() == pytest.approx([0.5, 0.0, 0.0], abs=2e-3)
    assert 0.3 < seen[1, 1] < 1.0, "half a tenth of a thousandth is within what is scaled to one"
    assert seen[2].tolist() == pytest.approx([0.5, FARTHEST, 0.0])


def test_data_in_small_units_is_scaled_like_any_other() -> None:
    seen = fitted(1e-5 * RAMP, 1e-6 * RAMP).encode_obs(torch.tensor([[1e-5, 5e-7]]))
    assert seen[0].tolist() == pytest.approx([1.0, 0.5], abs=1e-3)


def test_angles_alone_need_no_range() -> None:
    seen = fitted(RAMP, angles=(0,)).encode_obs(torch.tensor([[0.0]]))
    assert seen[0].tolist() == [1.0, 0.0]


def test_a_deviation_is_not_widened_by_one_extreme_value() -> None:
    """Twice the standard deviation becomes 1; of 10,000 normal values and one at 200, the range would make hundredths of them."""
    values = np.append(np.random.default_rng(0).normal(3.0, 2.0, 10_000), 200.0)
    normalizer = Normalizer(1, 1)
    normalizer.fit(Episodes(values[:, None], np.zeros((10_001, 1)), np.array([10_001])), "deviation")
    seen = normalizer.encode_obs(torch.tensor([[3.0], [7.0]])).flatten().tolist()
    assert seen == pytest.approx([0.0, 1.0], abs=0.35) and seen[1] - seen[0] > 0.7
    torch.testing.assert_close(normalizer.decode_obs(normalizer.encode_obs(torch.tensor([[5.0]]))), torch.tensor([[5.0]]))
