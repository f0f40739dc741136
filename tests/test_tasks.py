"""Several tasks: every method tells them apart by every embedding, a generated policy never sees the task, and names are checked."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lwd
from conftest import tiny_method
from lwd.cli import main
from lwd.config import Config, DiffusionPolicyConfig, LatentConfig, LatentDPConfig, LWDConfig, MethodConfig, MLPConfig, RandomConfig, Stage
from lwd.episodes import Episodes, Meta
from lwd.data.normalizer import Normalizer
from lwd.data.formats.npz_file import save_npz
from lwd.data.snippets import Snippets
from lwd.diagnose.diagnose import diagnose
from lwd.errors import LWDError
from lwd.methods import tasks as task_codes
from lwd.methods.base import Method, Spec, make_method
from lwd.methods.lwd import LWD, PolicyController
from lwd.methods.tasks import coordinates, sentence
from lwd.training.run import Run
from lwd.training.train import load_data, load_method, train

# what each task does in every state; the states tell nothing about the task
DIRECTIONS = {"move-left": (-0.8, 0.0), "move-right": (0.8, 0.0), "move-up": (0.0, 0.8)}
NAMES = tuple(sorted(DIRECTIONS))
EMBEDDINGS = ("one_hot", "learned", "language")
ENCODE = task_codes.encode  # most tests put a small one in its place
SMALL: dict[str, Any] = {"denoiser_width": 256, "denoiser_depth": 2, "prediction": "sample", "diffusion_steps": 20, "sampler_steps": 4}


def stage(steps: int, lr: float = 3e-3) -> Stage:
    return Stage(steps=steps, batch=64, lr=lr, warmup=10)


LATENT: dict[str, Any] = {"autoencoder": stage(150, 5e-3), "diffusion": stage(150), "latent": 4, "encoder": (32,), "beta": 1e-3, **SMALL}
TINY: dict[str, MethodConfig] = {
    "lwd": tiny_method(world_model=False, **LATENT),
    "latent_dp": LatentDPConfig(decoder=(32,), **LATENT),
    "diffusion_policy": DiffusionPolicyConfig(diffusion=stage(150), **SMALL),
    "mlp": MLPConfig(cloning=stage(150), policy=(32, 32)),
    "random": RandomConfig(),
}


def action_of(obs: Any, name: str) -> Any:
    return np.array(DIRECTIONS[name]) + 0.2 * np.asarray(obs)


def moves(names: Sequence[str] = NAMES, episodes: int = 8, length: int = 10, seed: int = 0) -> Episodes:
    """Random states, and what each task does in them."""
    rng = np.random.default_rng(seed)
    task = [name for name in names for _ in range(episodes)]
    obs = rng.uniform(-1, 1, (len(task), length, 2))
    action = np.stack([action_of(o, name) for o, name in zip(obs, task, strict=True)])
    meta = Meta(action_low=(-1.0, -1.0), action_high=(1.0, 1.0), description="synthetic: a direction for each task")
    ends = np.arange(1, len(task) + 1) * length
    return Episodes(obs.reshape(-1, 2), action.reshape(-1, 2), ends, task=np.array(task), meta=meta)


def config(folder: Path, method: MethodConfig, name: str = "run") -> Config:
    """A run of a second on `moves`."""
    if not (folder / "moves.npz").exists():
        save_npz(moves(), folder / "moves.npz")
    every = {"log_every": 1000, "validate_every": 1000, "checkpoint_every": 1000}
    return Config(
        data=str(folder / "moves.npz"),
        out=str(folder / name),
        horizon=4,
        holdout=0.2,
        precision="32-true",
        threads=1,
        method=method,
        **every,
    )


@pytest.fixture(scope="module")
def encoder() -> Iterator[list[list[str]]]:
    """A sentence encoder of 384 dimensions: the sum of one random vector per word. Notes what it was asked."""
    asked: list[list[str]] = []

    def encode(model: str, sentences: Sequence[str]) -> Tensor:
        asked.append(list(sentences))
        words = sorted({word for text in sentences for word in text.split()})
        vectors = dict(zip(words, torch.randn(len(words), 384, generator=torch.Generator().manual_seed(0)), strict=True))
        return torch.stack([torch.stack([vectors[word] for word in text.split()]).sum(0) for text in sentences])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_codes, "encode", encode)
        yield asked


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, encoder: list[list[str]]) -> Callable[..., Run]:
    """`trained(method, embedding)`: a run, trained when first asked for. Latent methods train their first stage once: it knows no task, and
    the other embeddings take it over from the run with one-hots."""
    folder, runs = tmp_path_factory.mktemp("tasks"), dict[str, Run]()

    def get(name: str, embedding: Any = "one_hot") -> Run:
        if (key := f"{name}-{embedding}") not in runs:
            method = replace(TINY[name], task_embedding=embedding, task_dim=4)
            if isinstance(method, LatentConfig) and embedding != "one_hot":
                method = replace(method, autoencoder_from=str(get(name).path))
            runs[key] = train(config(folder, method, key), quiet=True)
        return runs[key]

    return get


def error(method: Method, told: Callable[[str], str]) -> float:
    """Mean distance between the first actions of plans that were told `told(task)` and those of the task."""
    states = np.random.default_rng(1).uniform(-1, 1, (32, 2)).astype(np.float32)
    x = torch.from_numpy(states)
    errors = []
    for name in NAMES:
        controller = method.plan(x.unsqueeze(1), [told(name)] * len(x), torch.Generator().manual_seed(0))
        errors.append(np.linalg.norm(controller.act(x, 0).numpy() - action_of(states, name), axis=1).mean())
    return float(np.mean(errors))


def other(name: str) -> str:
    return NAMES[(NAMES.index(name) + 1) % len(NAMES)]


# --- learning ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("name", ["lwd", "latent_dp", "diffusion_policy", "mlp"])
def test_tells_the_tasks_apart(trained: Callable[..., Run], name: str, embedding: Any) -> None:
    """The right name gives the right actions, another name does not; what the embedding learned is averaged and kept."""
    run = trained(name, embedding)
    method = load_method(run)
    assert error(method, lambda task: task) < 0.25
    assert error(method, other) > 0.7
    assert method.spec.tasks == NAMES and method.task_code is not None
    torch.manual_seed(run.config().seed)
    untrained = make_method(run.config().method, method.spec).state_dict()
    tensors, _ = run.load("model")
    learned = dict(method.task_code.named_parameters(prefix="task_code"))
    assert bool(learned) == (embedding != "one_hot")
    for key, value in learned.items():
        assert torch.equal(value, tensors[f"ema.{key}"]) and (value - untrained[key]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["lwd", "latent_dp"])
def test_a_first_stage_is_taken_over_whatever_the_embedding(trained: Callable[..., Run], name: str) -> None:
    first, *others = (load_method(trained(name, embedding)).get_submodule("encoder").state_dict() for embedding in EMBEDDINGS)
    for weights in others:
        assert all(torch.equal(value, first[key]) for key, value in weights.items())


def test_sentences_are_encoded_once_and_not_when_loaded(trained: Callable[..., Run], encoder: list[list[str]]) -> None:
    run = trained("mlp", "language")
    encoder.clear()
    load_method(run)
    assert not encoder
    train(replace(run.config(), out=f"{run.path}-again"), quiet=True)
    assert encoder == [["move left", "move right", "move up"]]


def test_random_actions_know_no_task_but_check_its_name(trained: Callable[..., Run], encoder: list[list[str]]) -> None:
    encoder.clear()
    method = load_method(trained("random", "language"))
    assert not encoder and not list(method.parameters())
    assert error(method, lambda task: task) > 0.5 and error(method, other) > 0.5
    with pytest.raises(LWDError, match="does not know the task jump"):
        error(method, lambda task: "jump")


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_generated_policies_never_see_the_task(embedding: Any) -> None:
    """Whatever the number of tasks, the same policy: its first layer reads the features of the observation, and nothing else."""
    sizes = set()
    for tasks in ((), NAMES[:1], NAMES):
        method = make_method(tiny_method(task_embedding=embedding), Spec(2, 2, 4, 4, tasks=tasks))
        assert isinstance(method, LWD)
        controller = method.controller(torch.zeros(1, 8))
        assert isinstance(controller, PolicyController)
        assert controller.shape.sizes[0] == method.normalizer.feature_dim == 2
        assert controller.weights.shape == (1, controller.shape.count)
        sizes.add((method.policy_parameters, sum(p.numel() for p in method.decoder.parameters())))
    assert len(sizes) == 1


def test_one_task_conditions_nothing(tmp_path: Path, encoder: list[list[str]]) -> None:
    encoder.clear()  # other tests may have asked it before
    save_npz(moves(["move-up"]), tmp_path / "moves.npz")
    method = MLPConfig(cloning=stage(100), policy=(16,), task_embedding="language")
    generator = lwd.load(train(config(tmp_path, method), quiet=True).path, seed=0)
    assert generator.tasks == ("move-up",) and generator.method.condition_dim == 2 and not encoder
    state = np.array([0.5, -0.5])
    for task in (None, "move-up", ["move-up"]):
        assert np.abs(generator.plan(state, task=task).act(state) - action_of(state, "move-up")).max() < 0.2
    with pytest.raises(LWDError, match="does not know the task move-upp: did you mean move-up"):
        generator.plan(state, task="move-upp")


# --- the embedding in training and in the checkpoint -----------------------------------------------------------------------------------


@pytest.mark.parametrize("embedding", ["learned", "language"])
def test_a_killed_training_continues_bit_for_bit_without_the_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: list[list[str]], embedding: Any
) -> None:
    method = tiny_method(task_embedding=embedding, task_dim=4)
    short = {"log_every": 5, "validate_every": 10, "checkpoint_every": 5}
    whole = load_method(train(replace(config(tmp_path, method), **short), quiet=True)).state_dict()
    save, saves = Run.save, []

    def dying(self: Run, *arguments: Any) -> None:
        save(self, *arguments)
        saves.append(1)
        if len(saves) == 6:  # in the middle of the second stage
            raise KeyboardInterrupt

    killed = replace(config(tmp_path, method, "killed"), **short)
    monkeypatch.setattr(Run, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        train(killed, quiet=True)
    monkeypatch.setattr(Run, "save", save)

    def gone(model: str, sentences: Sequence[str]) -> Tensor:
        raise AssertionError("the checkpoint has the sentence vectors")

    monkeypatch.setattr(task_codes, "encode", gone)
    resumed = load_method(train(killed, quiet=True)).state_dict()
    assert all(torch.equal(v, whole[k]) for k, v in resumed.items())


def test_autoencoders_own_no_embedding() -> None:
    method = make_method(tiny_method(task_embedding="learned"), Spec(2, 2, 4, 4, tasks=NAMES))
    table = method.get_parameter("task_code.table.weight")
    for stage_name, owned in (("autoencoder", False), ("diffusion", True)):
        assert any(table is p for parameters, _ in method.groups(stage_name).values() for p in parameters) == owned


# --- language -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["door-open", "door_open", "DoorOpen", "door  open"])
def test_names_become_sentences(name: str) -> None:
    assert sentence(name) == "door open"


@pytest.mark.parametrize("shape", [(3, 384), (6, 4)])
def test_coordinates_keep_all_distances(shape: tuple[int, int]) -> None:
    vectors = 5 + torch.randn(shape, generator=torch.Generator().manual_seed(0))
    own = coordinates(vectors)
    assert own.shape == (shape[0], shape[0])
    ratio = torch.pdist(own) / torch.pdist(vectors)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=0)
    assert own.square().sum(1).mean().item() == pytest.approx(shape[0], rel=1e-4)


def test_names_that_read_the_same_are_refused(tmp_path: Path, encoder: list[list[str]]) -> None:
    one = moves(["move-left"])
    both = replace(one, task=np.array(["move-left", "move_left"] * (len(one) // 2)))
    save_npz(both, tmp_path / "moves.npz")
    with pytest.raises(LWDError, match="reads the task names 'move-left' and 'move_left' as the same"):
        train(config(tmp_path, replace(TINY["mlp"], task_embedding="language")), quiet=True)


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_codes, "encode", ENCODE)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # as if it were not installed
    with pytest.raises(LWDError, match=r'pip install "latent-weight-diffusion\[language\]"'):
        train(config(tmp_path, replace(TINY["mlp"], task_embedding="language")), quiet=True)


@pytest.mark.skipif(
    not os.environ.get("LWD_LANGUAGE_MODEL") or importlib.util.find_spec("sentence_transformers") is None,
    reason="needs sentence-transformers, and LWD_LANGUAGE_MODEL: the directory of a sentence encoder",
)
@pytest.mark.filterwarnings("default")
def test_a_real_sentence_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_codes, "encode", ENCODE)
    model = os.environ["LWD_LANGUAGE_MODEL"]
    door, close, reach = ENCODE(model, ["door open", "door close", "reach"])
    assert torch.cosine_similarity(door, close, 0) > torch.cosine_similarity(door, reach, 0) + 0.1
    for name in ("lwd", "mlp"):
        method = replace(TINY[name], task_embedding="language", language_model=model)
        loaded = load_method(train(config(tmp_path, method, name), quiet=True))
        assert error(loaded, lambda task: task) < 0.25 and error(loaded, other) > 0.7
    with pytest.raises(LWDError, match="cannot be loaded"):
        ENCODE(str(tmp_path / "nowhere"), ["door open"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_embedding": "words"}, "one of one_hot, learned, language"),
        ({"task_dim": 0}, "at least one dimension"),
        ({"task_embedding": "language", "language_model": " "}, "needs a sentence encoder"),
    ],
)
@pytest.mark.parametrize("kind", [LWDConfig, MLPConfig])
def test_impossible_settings_are_refused(kind: type[MethodConfig], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LWDError, match=message):
        kind(**changes)


# --- names --------------------------------------------------------------------------------------------------------------------------------


def test_plans_take_a_task_by_name(trained: Callable[..., Run]) -> None:
    generator = lwd.load(trained("lwd").path, seed=0)
    assert generator.tasks == NAMES
    states = np.zeros((3, 2))
    mixed = generator.plan(states, task=["move-up", "move-left", "move-right"]).act(states)
    assert np.abs(mixed - np.array([DIRECTIONS[n] for n in ("move-up", "move-left", "move-right")])).max() < 0.4
    assert np.abs(generator.plan(states, task="move-left").act(states) - DIRECTIONS["move-left"]).max() < 0.4
    for task, message in (
        (None, "several tasks: say which, one of move-left, move-right, move-up"),
        ("move-lefd", "the task move-lefd: did you mean move-left.* it knows move-left, move-right, move-up"),
        ("xyz", "the task xyz: it knows move-left"),
        (["move-up", "move-up"], "one task name per row: 3, not 2"),
    ):
        with pytest.raises(LWDError, match=message):
            generator.plan(states, task=task)


def test_other_spellings_of_the_family_are_accepted(trained: Callable[..., Run]) -> None:
    generator = lwd.load(trained("lwd").path, seed=0)
    state = np.zeros(2)
    generator.method.spec = replace(generator.method.spec, env="metaworld")
    assert np.abs(generator.plan(state, task="move-up-v3").act(state) - DIRECTIONS["move-up"]).max() < 0.4
    generator.method.spec = replace(generator.method.spec, env="not.installed.here")
    assert generator.plan(state, task="move-up") is not None
    with pytest.raises(LWDError, match="does not know the task move-up-v3"):
        generator.plan(state, task="move-up-v3")


def test_a_task_for_a_model_without_tasks_is_refused(tmp_path: Path) -> None:
    save_npz(replace(moves(), task=None), tmp_path / "moves.npz")
    generator = lwd.load(train(config(tmp_path, TINY["random"]), quiet=True).path)
    assert generator.tasks == ()
    with pytest.raises(LWDError, match="leave out task='move-up'"):
        generator.plan(np.zeros(2), task="move-up")


def test_info_names_the_tasks(trained: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    path = str(trained("lwd").path)
    assert main(["info", path]) == 0
    assert "tasks       3 (one-hot): move-left, move-right, move-up" in capsys.readouterr().out
    assert main(["info", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == list(NAMES)
    assert main(["info", str(trained("mlp", "language").path)]) == 0
    out = capsys.readouterr().out
    assert "3 (language): move-left" in out and "task_code 16" in out
    assert main(["info", str(trained("random").path)]) == 0
    assert "3 (nothing is conditioned on it)" in capsys.readouterr().out


# --- held-out episodes -----------------------------------------------------------------------------------------------------------------


def test_snippets_number_tasks_as_the_model_does() -> None:
    """Held-out episodes that lack the first task: their own numbers would be off by one."""
    held = moves(["move-up", "move-right"])
    normalizer = Normalizer(2, 2)
    normalizer.fit(held)
    data = Snippets(held, normalizer, 4, tasks=NAMES)
    assert data.task is not None and held.task is not None
    assert [NAMES[int(i)] for i in data.task] == list(np.repeat(held.task, 10))
    with pytest.raises(LWDError, match="episodes of 'move-up', which is none of the tasks move-left, move-right"):
        Snippets(held, normalizer, 4, tasks=NAMES[:2])


@pytest.mark.parametrize("name", ["lwd", "diffusion_policy", "mlp"])
def test_validation_on_some_of_the_tasks(trained: Callable[..., Run], name: str) -> None:
    """The figures of held-out episodes that lack the first task are as good as those of all tasks."""
    method = load_method(trained(name))
    held = method.snippets(moves(["move-up", "move-right"], seed=5))
    measured = method.validate(method.stages[-1], held, torch.Generator().manual_seed(0))
    assert all(value < 0.25 for value in measured.values()), measured


def test_the_ladder_tells_the_sampler_the_tasks(trained: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out episodes that lack a task: sampled policies do as well as decoded ones, unless the episodes bear wrong names."""
    run = trained("lwd")
    training, _ = load_data(run.config())

    def first_actions(held: Episodes) -> tuple[float, float]:
        monkeypatch.setattr("lwd.diagnose.diagnose.load_data", lambda settings: (training, held))
        rungs = {r["name"]: r for r in diagnose(run, samples=128)["rungs"]}
        rung = rungs["first action of sampled policies"]
        return rung["value"], rung["against"]

    held = moves(["move-up", "move-right"], seed=5)
    sampled, decoded = first_actions(held)
    assert decoded < 0.25 and sampled < 0.3
    assert held.task is not None
    wrong, _ = first_actions(replace(held, task=np.array([other(str(name)) for name in held.task])))
    assert wrong > 0.7
