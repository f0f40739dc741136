"""Settings: what cannot work is refused when the config is made, and what is written is read again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lwd.config import (
    Config,
    DiffusionPolicyConfig,
    EvalSettings,
    LatentDPConfig,
    LWDConfig,
    MethodConfig,
    MLPConfig,
    Stage,
    from_dict,
    to_dict,
)
from lwd.errors import LWDError
from lwd.methods.base import Spec
from lwd.presets import PRESETS, shrink, shrink_evaluation


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LWDConfig(latent=0), "at least one dimension"),
        (lambda: LWDConfig(sampler_steps=200), "between 1 and"),
        (lambda: LWDConfig(denoiser="unet", latent=60), "fold"),
        (lambda: LWDConfig(sampler="euler"), "euler does not go with the objective diffusion"),
        (lambda: LWDConfig(objective="flow", sampler="ddim"), "ddim does not go with the objective flow"),
        (lambda: MLPConfig(history=2), "history must be 1"),
        (lambda: Config(horizon=8, method=LWDConfig(rollout_steps=9)), "a snippet has 8: lower method.rollout_steps"),
        (lambda: Config(horizon=500, starts="first", method=MLPConfig()), "first step of every episode only"),
        (lambda: Config(horizon=6, method=DiffusionPolicyConfig(denoiser="unet")), "6 steps are no multiple of 4"),
        (lambda: Config(horizon=-1), "horizon counts steps"),
        (lambda: Config(holdout=1.0), "fraction in"),
        (lambda: Stage(steps=-1), "at least one step"),
        (lambda: EvalSettings(replan_every=-4), "--replan-every must be at least 1"),
        (lambda: EvalSettings(delay=-1), "--delay must be at least 0"),
        (lambda: EvalSettings(ensemble=0), "--ensemble counts controllers: at least 1"),
        (lambda: EvalSettings(disturb="displace:-1"), "with a magnitude of at least 0, not 'displace:-1'"),
        (lambda: LWDConfig(span=0), "span is a factor of at least 1"),
        (lambda: Config(horizon=8, method=LWDConfig(span=2, before=1)), "does not go with method.before and method.after"),
        (lambda: Config(horizon=8, method=LWDConfig(span=2, after=1)), "add --method.span 1"),
    ],
)
def test_impossible_settings_are_refused_when_they_are_made(make: Any, words: str) -> None:
    with pytest.raises(LWDError, match=words):
        make()


def test_what_is_possible_is_not_refused() -> None:
    Config(horizon=8, method=LWDConfig(rollout_steps=9, world_model=False))  # nothing is imagined
    Config(method=LWDConfig(rollout_steps=9))  # the horizon is not chosen yet
    LatentDPConfig(objective="flow", sampler="euler")
    LWDConfig(objective="regression", sampler="ddim")  # nothing is sampled


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json_and_shrink_to_seconds(name: str) -> None:
    config = PRESETS[name][1]
    assert config.preset == name
    for value in (config, shrink(config)):
        assert from_dict(Config, json.loads(json.dumps(to_dict(value)))) == value
    small = shrink(config)
    assert all(stage.steps <= 20 and stage.batch <= 32 for stage in small.method.stages.values())
    assert small.horizon == config.horizon and type(small.method) is type(config.method)


def test_evaluations_shrink_too() -> None:
    small = shrink_evaluation(EvalSettings(replan_every=16, episodes=50))
    assert (small.replan_every, small.episodes, small.max_steps) == (16, 2, 40)
    assert from_dict(EvalSettings, json.loads(json.dumps(to_dict(small)))) == small


@pytest.mark.parametrize(
    "damage",
    [{"nonsense": 1}, {"horizon": "8"}, {"method": 3}, {"method": {"name": "lwd", "policy": "wide"}}, {"seed": None}, {"device": "tpu"}],
)
def test_damaged_configs_are_refused_with_a_sentence(damage: dict[str, Any]) -> None:
    with pytest.raises(LWDError, match=r"another version|cannot be|must be"):
        from_dict(Config, {**to_dict(Config()), **damage})


def test_specs_survive_json() -> None:
    spec = Spec(5, 2, 8, 8, "pusht", "state", (4,), (0.0, 0.0), (512.0, 512.0), ("a", "b"), "first")
    assert from_dict(Spec, json.loads(json.dumps(to_dict(spec)))) == spec


def test_paper_preset_is_to_the_letter() -> None:
    method: MethodConfig = PRESETS["paper/pusht"][1].method
    assert isinstance(method, LWDConfig)
    assert method.world_model_history > 1, "section 4: the world model maps the history of observations and actions to the next one"
    assert (method.latent, method.policy, method.world_model_hidden, method.rollout_steps) == (256, (256, 256), (1024, 1024), 1)
    assert (method.denoiser, method.prediction, method.sampler, method.reduction) == ("unet", "epsilon", "ddpm", "sum")
    assert replace(method, world_model=False) != method
    for name, (_, config) in PRESETS.items():
        if name.startswith("paper/") and isinstance(config.method, LWDConfig):
            assert (config.method.phase, config.method.span, config.method.stages_from) == (False, 1, ""), "what the paper does not have"
