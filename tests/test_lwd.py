"""The method: losses by their definitions, latents that matter, samples that hit the data."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import lwd
from conftest import reaching, tiny_method
from lwd.config import Config, EvalSettings, Stage
from lwd.data.formats.npz import save_npz
from lwd.data.snippets import Batch, Snippets
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError
from lwd.methods.base import Spec
from lwd.methods.lwd import LWD, PolicyController
from lwd.training.train import train


def build(**changes: object) -> tuple[LWD, Snippets]:
    torch.manual_seed(0)
    episodes = reaching()
    method = LWD(tiny_method(**changes), Spec(2, 2, 8, 8, action_low=(0.0, 0.0), action_high=(512.0, 512.0)))
    method.normalizer.fit(episodes)
    data = method.snippets(episodes)
    method.prepare("autoencoder", data)
    return method, data


def test_losses_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    method, data = build(rollout_warmup=0, world_model_steps=0, beta=0.5)
    batch = data.at(torch.tensor([0, 25, 39]))  # the last start is an episode's last step: no transition of it is real
    losses = method.loss("autoencoder", batch, 0, generator)
    generator.manual_seed(0)
    mean, logvar = method.posterior(batch)
    z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
    action = method.shape.apply(method.decoder(z), batch.obs)
    torch.testing.assert_close(losses["L_BC"], (action - batch.action).square().mean())
    torch.testing.assert_close(losses["L_KL"], 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(1).mean())
    model = method.world_model
    assert model is not None
    obs, recorded, chosen = (x.unsqueeze(-2) for x in (batch.obs, batch.action, action))  # a history of one step
    errors = ((model(obs, recorded) - batch.following) / model.delta_scale).square()
    assert batch.real[2].sum() == 0 and batch.real[0].all()
    torch.testing.assert_close(losses["L_TF"], errors[batch.real].mean())
    apart = ((model(obs, chosen) - model(obs, recorded)) / model.delta_scale).square()
    torch.testing.assert_close(losses["L_RO"], method.config.rollout_weight * apart[batch.real].mean())
    torch.testing.assert_close(losses["loss"], sum(losses[k] for k in ("L_BC", "L_RO", "L_TF", "L_KL")))


def test_losses_with_phase_and_span_by_hand() -> None:
    """Encoder and decoder are told the horizon, the policy its phase at jittered steps, and the rate counts by the horizon."""
    generator = torch.Generator().manual_seed(0)
    method, data = build(phase=True, span=2, world_model=False, beta=0.5)
    batch = Batch(data, torch.tensor([0, 25, 39]), torch.tensor([4.0, 8.0, 16.0]))
    losses = method.loss("autoencoder", batch, 0, generator)
    generator.manual_seed(0)
    told = torch.tensor([[-1.0], [0.0], [1.0]])  # from the shortest to the longest
    mean, logvar = method.encoder(torch.cat([torch.cat([batch.obs, batch.action], -1).flatten(1), told], 1)).chunk(2, -1)
    z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
    seen = batch.jittered(generator)
    assert not torch.equal(seen.times, batch.times)
    phase = 2 * seen.times / torch.tensor([[4.0], [8.0], [16.0]]) - 1
    action = method.shape.apply(method.decoder(torch.cat([z, told], 1)), torch.cat([seen.obs, phase[..., None]], -1))
    torch.testing.assert_close(losses["L_BC"], (action - seen.action).square().mean())
    rate = (mean**2 + logvar.exp() - 1 - logvar).sum(1)
    torch.testing.assert_close(losses["L_KL"], 0.5 * (rate * torch.tensor([0.5, 1.0, 2.0])).mean())
    torch.testing.assert_close(losses["rate_nats"], rate.mean() / 2)
    torch.testing.assert_close(method.decoded(z, batch), method.act(method.decoder(torch.cat([z, told], 1)), batch.obs, batch.phase))


@pytest.mark.parametrize("imagination", [1, 3])
def test_an_imagined_policy_is_at_the_phase_of_its_step(imagination: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method, data = build(phase=True, span=2, rollout_warmup=0, world_model_steps=0, rollout_steps=imagination)
    phases, act = list[torch.Tensor](), method.act
    monkeypatch.setattr(method, "act", lambda weights, obs, phase: phases.append(phase) or act(weights, obs, phase))
    batch = Batch(data, torch.tensor([0, 25]), torch.tensor([4.0, 8.0]))
    method.loss("autoencoder", batch, 0, torch.Generator().manual_seed(0))
    _, *imagined = phases  # the first is that of L_BC
    assert len(imagined) == imagination
    for i, phase in enumerate(imagined):
        begun = phase - i / batch.horizon[:, None]
        assert all(set(row.tolist()) <= set(own.tolist()) for row, own in zip(begun, batch.phase, strict=True))


@pytest.mark.parametrize("imagination", [1, 4])
def test_rollout_loss_shapes_the_policy_and_not_the_world_model(imagination: int) -> None:
    method, data = build(rollout_warmup=0, rollout_steps=imagination)
    losses = method.loss("autoencoder", data.sample(8, torch.Generator().manual_seed(0)), 0, torch.Generator().manual_seed(0))
    losses["L_RO"].backward()
    assert method.world_model is not None
    assert all(p.grad is None for p in method.world_model.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.decoder.parameters())


def test_sum_reduction_is_the_papers() -> None:
    method, data = build(world_model=False)
    batch = data.at(torch.tensor([0, 25]))
    losses = [
        replace_config(method, reduction=r).loss("autoencoder", batch, 0, torch.Generator().manual_seed(0))["L_BC"] for r in ("mean", "sum")
    ]
    torch.testing.assert_close(losses[1], losses[0] * 8 * 2)


def replace_config(method: LWD, **changes: object) -> LWD:
    method.config = replace(method.config, **changes)  # type: ignore[arg-type]
    return method


def test_the_rollout_loss_leaves_out_what_has_no_successor() -> None:
    """L_BC counts the repeated last step of an episode (hold the last action), L_TF and L_RO do not."""
    method, data = build(rollout_warmup=0, world_model_steps=0)
    losses = method.loss("autoencoder", data.at(torch.tensor([39, 59])), 0, torch.Generator().manual_seed(0))  # last steps of episodes
    assert losses["L_TF"] == 0 and losses["L_RO"] == 0 and losses["L_BC"] > 0


@pytest.mark.parametrize("imagination", [1, 3])
def test_a_world_model_with_a_history_sees_the_steps_before(imagination: int) -> None:
    method, data = build(rollout_warmup=0, world_model_steps=0, world_model_history=3, rollout_steps=imagination)
    assert method.world_model is not None and method.world_model.net[0].in_features == 3 * (2 + 2)  # type: ignore[union-attr]
    losses = method.loss("autoencoder", data.at(torch.tensor([0, 25])), 0, torch.Generator().manual_seed(0))
    assert all(losses[name].isfinite() and losses[name] > 0 for name in ("L_TF", "L_RO"))
    by_hand = method.world_model(data.obs[[0, 0, 1]][None], data.action[[0, 0, 1]][None])[0]  # an episode's first step is its own past
    torch.testing.assert_close(method.imagine(data, torch.tensor([1]), 1)[0], by_hand)
    later = method.world_model(torch.cat([data.obs[[0, 1]], by_hand[None]])[None], data.action[[0, 1, 2]][None])[0]
    torch.testing.assert_close(method.imagine(data, torch.tensor([1]), 2)[0], later)


def test_imagination_begins_at_random_steps() -> None:
    """Two draws of the same snippet imagine from different steps."""
    method, data = build(rollout_warmup=0, rollout_steps=2, world_model_steps=1, policy_noise=0.0)
    method.posterior = lambda batch: (torch.zeros(len(batch.start), 8), torch.full((len(batch.start), 8), -14.0))  # type: ignore[method-assign]
    batch = data.at(torch.tensor([0, 25]))
    values = {round(method.loss("autoencoder", batch, 0, torch.Generator().manual_seed(i))["L_RO"].item(), 9) for i in range(12)}
    assert len(values) > 3


def test_a_clock_in_the_observation_does_not_break_the_world_model() -> None:
    """A dimension that grows by the same amount at every step changes by a known amount: its unit is not its spread, which is zero."""
    episodes = reaching()
    clock = np.tile(np.arange(20, dtype=np.float32), len(episodes))[:, None]
    episodes = replace(episodes, obs=np.concatenate([episodes.obs, clock], 1))
    method = LWD(tiny_method(world_model_steps=0), Spec(3, 2, 8, 8))
    method.normalizer.fit(episodes)
    data = Snippets(episodes, method.normalizer, 8)
    method.prepare("autoencoder", data)
    losses = method.loss("autoencoder", data.sample(16, torch.Generator().manual_seed(0)), 0, torch.Generator().manual_seed(0))
    assert losses["L_TF"] < 10


@pytest.fixture(scope="module")
def two_goals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the two goals, trained for a few seconds."""
    folder = tmp_path_factory.mktemp("two_goals")
    save_npz(reaching(40, 20), folder / "data.npz")
    method = tiny_method(
        autoencoder=Stage(800, 64, 3e-3, warmup=50),
        diffusion=Stage(1000, 128, 2e-3, warmup=50),
        beta=3e-6,
        policy=(32, 32),
        encoder=(64, 64),
        world_model=False,
        denoiser_width=64,
        denoiser_depth=2,
        diffusion_steps=50,
        sampler_steps=10,
    )
    config = Config(data=str(folder / "data.npz"), out=str(folder / "run"), horizon=12, threads=1, precision="32-true", method=method)
    return train(config, quiet=True).path


def walk(run: Path, seed: int = 0, episodes: int = 64) -> np.ndarray:
    """Where 64 episodes from the same start end when a policy is generated every 12 steps."""
    generator = lwd.load(run, seed=seed)
    position = np.full((episodes, 2), (250.0, 50.0), np.float32)
    for t in range(24):
        if t % 12 == 0:
            controller = generator.plan(position)
        position = position + 0.5 * (controller.act(position, t % 12) - position)
    return position


@pytest.mark.parametrize(
    "changes",
    [
        {"history": 2},
        {"denoiser": "unet", "unet_size": "xs", "latent": 32, "unet_fold": 8},
        {"prediction": "epsilon", "sampler": "ddpm", "sampler_steps": 20},
        {"rollout_steps": 3, "world_model_steps": 0, "world_model_history": 2},
        {"bc_steps": 3, "stride": 2, "before": 2, "after": 3},
        {"phase": True, "before": 1, "after": 2},
        {"phase": True, "span": 2, "shared": 0.5, "rollout_steps": 2, "bc_steps": 3, "stride": 2},
        {"span": 4, "world_model_history": 2, "denoiser": "transformer", "transformer_size": "xs", "latent": 32, "unet_fold": 8},
    ],
)
def test_every_option_trains_and_plans(tiny: Config, changes: dict) -> None:
    run = train(replace(tiny, method=tiny_method(**changes)), quiet=True)
    generator = lwd.load(run.path)
    history = np.full((3, changes.get("history", 1), 2), 100.0)
    assert generator.plan(history).act(history[:, -1]).shape == (3, 2)
    assert generator.plan(history[0, -1]).act(history[0, -1]).shape == (2,), "without a past, the present is taken for it"


def test_generated_policies_reach_both_goals(two_goals: Path) -> None:
    end = walk(two_goals)
    left, right = end[:, 0] < 200, end[:, 0] > 300
    assert left.mean() > 0.15 and right.mean() > 0.15, "both modes of the demonstrations are sampled"
    assert (left | right).mean() > 0.8, "few policies go between the goals, where no demonstration went"
    assert np.median(end[:, 1]) > 250


def test_latent_matters(two_goals: Path) -> None:
    generator = lwd.load(two_goals, seed=1)
    obs = torch.tensor([[250.0, 50.0]]).repeat(32, 1)
    policies = generator.plan(obs).policies
    t = torch.zeros(32, dtype=torch.long)
    chosen = policies.act(obs, t)
    permuted = type(policies)(policies.shape, policies.weights.roll(1, 0), policies.latent, policies.normalizer).act(obs, t)
    assert (chosen - permuted).abs().mean() > 2


def test_public_interface_speaks_what_it_is_asked_in(two_goals: Path) -> None:
    generator = lwd.load(two_goals, seed=0)
    single = generator.plan(np.array([250.0, 50.0]))
    action = single.act(np.array([250.0, 50.0]), t=0)
    assert isinstance(action, np.ndarray) and action.shape == (2,) and ((action >= 0) & (action <= 512)).all()
    batch = generator.plan(torch.tensor([[250.0, 50.0]] * 3))
    assert isinstance(batch.act(torch.tensor([[250.0, 50.0]] * 3)), torch.Tensor)
    assert single.horizon == 12
    with pytest.raises(LWDError, match=r"shape \(batch, 1, 2\)"):
        generator.plan(np.zeros(3))
    with pytest.raises(LWDError, match="NaN"):
        generator.plan(np.array([np.nan, 0.0]))
    with pytest.raises(LWDError, match="shape"):
        batch.act(torch.zeros(2, 2))


def test_same_seed_same_policy_and_rows_do_not_depend_on_others(two_goals: Path) -> None:
    method = lwd.load(two_goals).method
    obs = torch.rand(4, 1, 2) * 300

    def plan(rows: list[int]) -> torch.Tensor:
        return method.plan(obs[rows], None, [torch.Generator().manual_seed(r) for r in rows]).latent

    torch.testing.assert_close(plan([0, 1, 2, 3])[2:], plan([2, 3]), atol=1e-5, rtol=1e-5)
    a, b = (lwd.load(two_goals, seed=5).plan(obs[0, 0]).policies.latent for _ in range(2))
    assert torch.equal(a, b)


def test_public_names_are_what_users_mean() -> None:
    script = (
        "import sys, lwd; assert 'torch' not in sys.modules; import lwd.policy, lwd.rollout, lwd.evaluate\n"
        "assert all(hasattr(lwd, name) for name in lwd.__all__) and len(lwd.__all__) <= 15\n"
        "assert callable(lwd.train) and callable(lwd.evaluate) and callable(lwd.rollout) and callable(lwd.load)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# --- phase and span ---------------------------------------------------------------------------------------------------------------------


def planned(method: LWD, rows: int = 2, seed: int = 0) -> PolicyController:
    return method.plan(torch.tensor([[[250.0, 50.0]]]).expand(rows, 1, 2), generator=torch.Generator().manual_seed(seed))


def test_a_policy_with_phase_knows_its_age() -> None:
    obs, ages = torch.tensor([[250.0, 50.0]]).repeat(2, 1), torch.tensor([0, 5])
    for phase in (False, True):
        controller = planned(build(phase=phase)[0])
        now, later, end, beyond = (controller.act(obs, torch.full((2,), t)) for t in (0, 5, 8, 100))
        assert (torch.equal(now, later), torch.equal(later, end)) == (not phase, not phase)
        assert torch.equal(end, beyond), "beyond its horizon a policy stays at the last phase"
        assert torch.equal(controller.act(obs, ages), torch.stack([now[0], later[1]])), "each row has its own age"
        assert (controller.ends is not None) == phase


def test_the_phase_of_a_policy_is_that_of_its_training() -> None:
    """A policy decoded from a snippet does at age t what L_BC trained it to do there."""
    method, data = build(phase=True, span=2)
    batch = Batch(data, torch.tensor([0, 25]), torch.tensor([16.0, 4.0]))
    z, _ = method.posterior(batch)
    controller = method.controller(z, batch.horizon)
    assert controller.ends is not None and controller.ends.tolist() == [16, 4]
    features = method.decoded(z, batch)
    raw_obs = torch.from_numpy(reaching().obs)[batch.rows]
    for i in (0, 3, 7):
        expected = method.normalizer.decode_action(features[:, i])
        torch.testing.assert_close(controller.act(raw_obs[:, i], batch.times[:, i]), expected, atol=1e-2, rtol=1e-4)


def test_some_policies_are_replaced_with_their_ends() -> None:
    method, _ = build(phase=True, span=4)
    obs, ages = torch.tensor([[250.0, 50.0]]).repeat(3, 1), torch.tensor([3, 3, 3])
    controller = planned(method, 3)
    before = controller.act(obs, ages)
    method.ask_for(EvalSettings(replan_every=4))
    new = planned(method, 2, seed=1)
    controller.update(torch.tensor([2, 0]), new)
    after = controller.act(obs, ages)
    assert torch.equal(after[1], before[1]) and torch.equal(after[[2, 0]], new.act(obs[:2], ages[:2]))
    assert controller.ends is not None and controller.ends.tolist() == [4, 8, 4]
    assert torch.equal(controller.weights[[2, 0]], new.weights) and torch.equal(controller.latent[[2, 0]], new.latent)
    plain = planned(build()[0], 3)
    plain.update(torch.tensor([1]), planned(build()[0], 1, seed=1))
    assert plain.ends is None


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ({}, 8),
        ({"replan_every": 4}, 4),
        ({"replan_every": 12, "delay": 5}, 17),
        ({"delay": 3}, 11),
        ({"replan_every": 1}, 2),
        ({"replan_every": 99}, 32),
    ],
)
def test_a_model_of_many_intervals_plans_for_the_one_that_is_asked_for(settings: dict[str, int], ends: int) -> None:
    """Interval and delay, as far as they were trained: from 8 / 4 to 8 * 4."""
    method, _ = build(phase=True, span=4)
    usual = planned(method)
    method.sample_with(EvalSettings(**settings))
    controller = planned(method)
    assert controller.ends is not None and controller.ends.tolist() == [ends] * 2
    assert torch.equal(controller.weights, usual.weights) == (ends == 8), "denoiser and hypernetwork are told the horizon"
    method.sample_with(EvalSettings())
    assert torch.equal(planned(method).weights, usual.weights)


def test_the_denoiser_is_told_the_horizon(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training that of the snippet, in a plan the one that is asked for: from -1, the shortest, to 1, the longest."""
    method, data = build(phase=True, span=4)
    conditions, sample = list[torch.Tensor](), method.sample
    monkeypatch.setattr(method, "sample", lambda cond, generator: conditions.append(cond) or sample(cond, generator))
    for every in (2, 4, 8, 16, 32):
        method.ask_for(EvalSettings(replan_every=every))
        planned(method, 1)
    torch.testing.assert_close(torch.cat(conditions)[:, -1], torch.tensor([-1, -0.5, 0, 0.5, 1]))
    batch = Batch(data, torch.tensor([0, 1]), torch.tensor([4.0, 32.0]))
    torch.testing.assert_close(method.condition_of(batch)[:, -1], torch.tensor([-0.5, 1.0]))
    torch.testing.assert_close(method.condition_of(batch)[:, :-1], data.obs[:2])


def test_a_model_of_one_interval_is_not_changed_by_what_is_asked_for() -> None:
    for changes in ({}, {"phase": True}):
        method, data = build(**changes)
        usual = planned(method)
        assert (method.span, method.told) == (1, 0) and method.encoder[0].in_features == 8 * (2 + 2)
        method.sample_with(EvalSettings(replan_every=3, delay=2))
        again = planned(method)
        assert torch.equal(usual.weights, again.weights) and (again.ends is None or again.ends.tolist() == [8, 8])
        x = torch.rand(4, 3)
        assert method.tell(x, torch.full((4,), 5.0)) is x
        batch = data.sample(4, torch.Generator().manual_seed(0))
        assert (batch.horizon == 8).all()


def test_whole_episodes_have_one_horizon() -> None:
    """With starts=first a span means nothing: the model is that without one."""
    spec = Spec(2, 2, 8, 8, action_low=(0.0, 0.0), action_high=(512.0, 512.0), starts="first")
    parts = []
    for span in (1, 4):
        torch.manual_seed(0)
        method = LWD(tiny_method(phase=True, span=span), spec)
        method.normalizer.fit(reaching())
        method.ask_for(EvalSettings(replan_every=2))
        parts.append((method.state_dict(), planned(method).ends))
        assert method.span == 1 and method.snippets(reaching()).span == 1
    (plain, ends), (spanned, same) = parts
    assert all(torch.equal(value, spanned[key]) for key, value in plain.items()) and torch.equal(ends, same) and ends.tolist() == [8, 8]


def test_a_policy_with_phase_learns_what_the_observation_does_not_tell(tiny: Config, tmp_path: Path) -> None:
    """The observation stands still and the action changes its sign in the middle: only a clock tells when."""
    obs, action = np.zeros((30, 16, 2)), np.ones((30, 16, 2))
    obs += np.random.default_rng(0).uniform(100, 400, (30, 1, 2))
    action[:, 8:] = -1
    meta = Meta(action_low=(-1.0, -1.0), action_high=(1.0, 1.0), description="synthetic: a change at half time")
    save_npz(Episodes(obs.reshape(-1, 2), action.reshape(-1, 2), 16 * np.arange(1, 31), meta=meta), tmp_path / "half.npz")
    errors = {}
    for phase in (False, True):
        method = tiny_method(autoencoder=Stage(300, 32, 3e-3, warmup=10), world_model=False, phase=phase, diffusion=Stage(1, 8))
        files = {"data": str(tmp_path / "half.npz"), "out": str(tmp_path / f"{phase}"), "checkpoint_every": 300, "validate_every": 300}
        lines = train(replace(tiny, **files, horizon=16, method=method), quiet=True).metrics()  # type: ignore[arg-type]
        errors[phase] = next(
            line["held_out/reconstruction_action_rmse"] for line in lines if line["stage"] == "autoencoder" and line["step"] == 300
        )
    assert errors[True] < 0.5 * errors[False], errors
