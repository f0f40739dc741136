"""What is chosen from the data before a training, and what is said when data and preset do not go together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwd.config import Config, DiffusionPolicyConfig, LWDConfig, MLPConfig, Stage
from lwd.data.formats.npz import save_npz
from lwd.data.prepare import choose, demonstrations, load_data, make_spec
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError
from lwd.presets import PRESETS


def demos(lengths: list[int], obs_dim: int = 39, action_dim: int = 28, **changes: Any) -> Episodes:
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(sum(lengths), obs_dim)), rng.uniform(-1, 1, (sum(lengths), action_dim))
    return Episodes(obs, action, np.cumsum(lengths), **changes)


def prepared(path: Path, config: Config, episodes: Episodes) -> tuple[Config, dict[str, tuple[str, str]], Episodes, Episodes | None]:
    """As a training does it: (the config that is trained, the rows of the table, training and held-out episodes)."""
    save_npz(episodes, path / "my.npz")
    config = replace(config, data=str(path / "my.npz"))
    training, held = load_data(config)
    chosen, rows = choose(config, training, len(held or ()))
    again = load_data(chosen)
    assert again[0].fingerprint() == training.fingerprint() and len(again[1] or ()) == len(held or ())
    return chosen, {name: (value, why) for name, value, why in rows}, training, held


def test_any_demonstrations_get_a_config_without_zeros(tmp_path: Path) -> None:
    for preset in ("lwd", "dp", "ldp", "mlp", "random"):
        config, rows, training, held = prepared(tmp_path, PRESETS[preset][1], demos([100] * 25))
        assert config.horizon == 24 and all(stage.steps and stage.batch for stage in config.method.stages.values())
        assert held is not None and (len(training), len(held)) == (24, 1)
        assert (rows["observation"][0], rows["action"][0], rows["episodes"][0]) == ("39 dimensions", "28 dimensions", "24")
        assert rows["environment"][0] == "none" and "no simulator" in rows["environment"][1]
        assert rows["horizon"] == ("24 steps", "a quarter of an episode (median 100 steps), between 4 and 32")
        assert set(config.method.stages) <= set(rows)
        spec = make_spec(config, training)
        assert (spec.obs_dim, spec.action_dim, spec.horizon, spec.env, spec.tasks) == (39, 28, 24, None, ())


@pytest.mark.parametrize(
    ("lengths", "horizon"), [([8] * 5, 4), ([50] * 5, 12), ([400] * 5, 32), ([100] * 30 + [3], 24), ([100] * 5 + [10] * 4, 8), ([3, 2], 4)]
)
def test_horizon_follows_the_length_of_the_episodes(lengths: list[int], horizon: int) -> None:
    assert choose(Config(), demos(lengths, 3, 2), 1)[0].horizon == horizon


def test_horizon_of_whole_episodes_and_of_a_unet() -> None:
    assert choose(Config(starts="first"), demos([90, 101], 3, 2), 1)[0].horizon == 104
    config = Config(method=DiffusionPolicyConfig(denoiser="unet", before=1))
    assert choose(config, demos([100] * 9, 3, 2), 1)[0].length == 24  # a multiple of 4, and nobody has to know


@pytest.mark.parametrize(
    ("method", "steps", "expected"),
    [
        (LWDConfig(), 20 * 100, {"autoencoder": (3_000, 64), "diffusion": (2_500, 256)}),
        (LWDConfig(), 250 * 100, {"autoencoder": (6_300, 64), "diffusion": (4_900, 256)}),
        (LWDConfig(), 1_000 * 100, {"autoencoder": (10_000, 64), "diffusion": (8_000, 256)}),
        (MLPConfig(), 600 * 100, {"cloning": (3_000, 1024)}),
        (MLPConfig(), 30, {"cloning": (2_000, 30)}),
    ],
)
def test_lengths_of_the_stages_follow_the_number_of_start_steps(method: Any, steps: int, expected: dict[str, tuple[int, int]]) -> None:
    config, rows = choose(Config(method=method), demos([min(steps, 100)] * max(1, steps // 100), 3, 2), 1)
    assert {name: (stage.steps, stage.batch) for name, stage in config.method.stages.items()} == expected
    assert all(f"{steps:,} start steps" in why for name, _, why in rows if name in expected)


def test_what_is_set_is_kept(tmp_path: Path) -> None:
    method = LWDConfig(autoencoder=Stage(steps=7, lr=2e-3), diffusion=Stage(batch=9))
    config, rows, _, _ = prepared(tmp_path, Config(horizon=10, method=method), demos([100] * 25))
    assert config.horizon == 10 and rows["horizon"][1] == "as set"
    autoencoder, diffusion = config.method.stages["autoencoder"], config.method.stages["diffusion"]
    assert (autoencoder.steps, autoencoder.batch, autoencoder.lr) == (7, 64, 2e-3) and rows["autoencoder"][1] == "as set"
    assert (diffusion.steps, diffusion.batch) == (8_000, 9)
    for name, (_, preset) in PRESETS.items():
        assert preset.horizon == 0 or choose(preset, demos([100] * 25), 1)[0] == preset, name
    with pytest.raises(LWDError, match="L_RO goes on for 30 steps"):
        choose(Config(method=LWDConfig(rollout_steps=30)), demos([100] * 25), 1)


def test_a_single_episode_is_trained_on_and_the_table_says_what_is_missing(tmp_path: Path) -> None:
    config, rows, training, held = prepared(tmp_path, Config(holdout=0.5), demos([100]))
    assert held is None and len(training) == 1 and config.holdout == 0
    assert rows["held out"][0] == "no episodes" and "nothing can be validated" in rows["held out"][1]
    config, rows, training, held = prepared(tmp_path, Config(), demos([100, 60]))
    assert held is not None and (len(training), len(held), config.holdout) == (1, 1, 0.05)
    assert rows["held out"][0] == "1 episode"


def test_several_tasks_are_told_to_the_model_and_none_is_held_out_whole(tmp_path: Path) -> None:
    episodes = demos([20] * 5, task=np.array(["push", "push", "lift", "turn", "pull"]))
    config, rows, training, held = prepared(tmp_path, Config(), episodes)
    assert (rows["tasks"][0], rows["tasks"][1]) == ("4", "told to the model as one-hot vectors")
    assert held is not None and list(held.task) == ["push"]  # type: ignore[arg-type]
    assert make_spec(config, training).tasks == ("lift", "pull", "push", "turn")
    _, rows, _, held = prepared(tmp_path, Config(), episodes.select([0, 2, 3, 4]))
    assert held is None and rows["held out"][0] == "no episodes"
    assert "tasks" not in prepared(tmp_path, Config(), demos([20] * 5, task=np.array(["push"] * 5)))[1]


def test_episodes_of_one_length_are_pointed_out_where_progress_is_learned(tmp_path: Path) -> None:
    for imagine, lengths, said in ((True, [50] * 4, True), (True, [50, 40, 50, 50], False), (False, [50] * 4, False)):
        rows = prepared(tmp_path, Config(method=LWDConfig(imagine=imagine)), demos(lengths, 6, 2))[1]
        assert ("progress" in rows) == said
    with_world = prepared(tmp_path, Config(method=LWDConfig(imagine=True)), demos([50] * 4, 6, 2))[1]
    assert with_world["progress"][0] == "all episodes have 50 steps" and "a clock" in with_world["progress"][1]


def test_dimensions_that_hardly_vary_are_named(tmp_path: Path) -> None:
    episodes = demos([50] * 4, 6, 2)
    episodes.obs[:, 1], episodes.action[:, 0] = 3.0, 0.5
    episodes.obs[:, 4] *= 1e-5
    rows = prepared(tmp_path, Config(), episodes)[1]
    assert [rows[name][0] for name in ("constant observations", "nearly constant", "constant actions")] == ["1", "4", "0"]
    plain = prepared(tmp_path, Config(), demos([50] * 4, 6, 2))[1]
    assert not {"constant observations", "nearly constant", "constant actions"} & set(plain)


def test_embedded_data_in_its_own_and_in_another_kind_of_observation() -> None:
    config = replace(PRESETS["pusht-cloning"][1], demonstrations=20)
    training, held = load_data(config)
    assert held is not None and (len(training), len(held)) == (38, 1)
    assert training.obs.shape[1] == held.obs.shape[1] == 18
    assert training.steps == 2 * training.select(range(19)).steps
    rows = {name: (value, why) for name, value, why in choose(config, training, 1)[1]}
    assert (rows["environment"][0], rows["observation"][1], rows["mirror images"][0]) == ("pusht", "keypoints", "yes")
    assert load_data(Config(holdout=0))[1] is None


NONE = "{} names no environment that could"
ANY = "take the preset for any data (lwd train"


@pytest.mark.parametrize(
    ("preset", "changes", "sentence"),
    [
        (
            "pusht",
            {},
            f"the preset pusht needs keypoints as observations and mirror images, but {NONE} give them: "
            f"{ANY} --data {{}}), or add --obs-kind data --no-mirror",
        ),
        (
            "pusht-dp",
            {"obs_kind": "data"},
            f"the preset pusht-dp needs mirror images, but {NONE} give them: {ANY} dp --data {{}}), or add --no-mirror",
        ),
        ("lwd", {"obs_kind": "keypoints"}, f"{NONE} turn its observations into 'keypoints': leave out --obs-kind"),
        ("lwd", {"mirror": True}, "{} belongs to no environment with a mirror symmetry: leave out --mirror"),
    ],
)
def test_what_a_preset_asks_for_is_not_blamed_on_the_user(tmp_path: Path, preset: str, changes: dict[str, Any], sentence: str) -> None:
    path = tmp_path / "my.npz"
    save_npz(demos([20] * 5), path)
    with pytest.raises(LWDError) as caught:
        load_data(replace(PRESETS[preset][1], data=str(path), **changes))
    assert str(caught.value) == sentence.replace("{}", str(path))


def test_a_preset_of_another_environment_names_the_way_out(tmp_path: Path) -> None:
    save_npz(demos([20] * 5, 39, 4, meta=Meta("metaworld", "state")), tmp_path / "my.npz")
    with pytest.raises(
        LWDError, match=r"the preset pusht needs keypoints .* and mirror images, but .* is of metaworld, which has none: take"
    ):
        load_data(replace(PRESETS["pusht"][1], data=str(tmp_path / "my.npz")))
    with pytest.raises(LWDError, match=r"metaworld has no observation 'keypoints'.*: leave out --obs-kind"):
        load_data(Config(obs_kind="keypoints", data=str(tmp_path / "my.npz")))


def test_too_few_demonstrations_are_refused() -> None:
    episodes = demos([20] * 5, task=np.array(["push", "lift", "push", "lift", "push"]))
    assert demonstrations(episodes, 2).task.tolist() == ["push", "lift", "push", "lift"]  # type: ignore[union-attr]
    with pytest.raises(LWDError, match="the data has 2 demonstrations of lift, fewer than --demonstrations 3"):
        demonstrations(episodes, 3)
