"""Ablations: every command of every grid parses, sizes are equal where they claim to be, and results become tables and figures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from tyro.conf import CascadeSubcommandArgs, OmitSubcommandPrefixes

from lwd.cli import Eval, Train
from lwd.config import Config, LatentConfig, LWDConfig, to_dict
from lwd.errors import LWDError
from lwd.presets import PRESETS
from lwd.studies import cost, hypernetwork, kl, pooling
from lwd.studies.ablation import option_words
from lwd.studies.base import Cell, Study
from lwd.studies.cost import Cost
from lwd.studies.denoiser import Denoiser
from lwd.studies.hypernetwork import Hypernetwork
from lwd.studies.kl import Kl
from lwd.studies.latent import Latent
from lwd.studies.output import write_outputs
from lwd.studies.steps import Steps
from lwd.studies.tasks import Outcome, Task
from lwd.studies.worldmodel import WorldModel

GRIDS = (Denoiser, Hypernetwork, Kl, Latent, Steps, WorldModel)
FLAGS = (OmitSubcommandPrefixes, CascadeSubcommandArgs)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are not what is tested here."""
    monkeypatch.setattr(pooling, "RESAMPLES", 100)


def config_of(task: Task) -> Config:
    """The settings that a training's command line means."""
    assert task.argv[0] == "train"
    return tyro.cli(Train, args=list(task.argv[1:]), config=FLAGS).config


def eval_of(task: Task) -> Eval:
    assert task.argv[0] == "eval"
    return tyro.cli(Eval, args=list(task.argv[1:]), config=FLAGS)


def fill(study: Study, score: Any = None) -> tuple[list[Cell], dict[str, Outcome]]:
    """Files that the tasks of a study would leave behind: results of four episodes, and what says that a training is finished."""
    tasks, cells = study.grid()
    labels = {cell.task.name: cell for cell in cells}
    for task in tasks:
        if task.kind == "train":
            stages = {"autoencoder": 1.5, "diffusion": 2.0}
            checkpoint = task.run / "checkpoints" / "one"
            checkpoint.mkdir(parents=True, exist_ok=True)
            config = {"preset": "pusht", "seed": 0, "method": {"name": "lwd", "diffusion": {"steps": 5}}}
            data = {"description": "synthetic: fake", "episodes": 4}
            (task.run / "config.json").write_text(json.dumps({"config": config, "data": data}))
            (checkpoint / "state.json").write_text(json.dumps({"done": list(stages), "seconds": stages}))
            (task.run / "checkpoints" / "latest.json").write_text(json.dumps({"checkpoint": "one"}))
            continue
        verb, cell = eval_of(task), labels[task.name]
        mean = 0.5 if score is None else score(cell.labels, cell.seed)
        records = [{"seed": verb.seed_start + i, "steps": 100, "max_overlap": mean + 0.02 * (i % 2)} for i in range(verb.episodes)]
        flops = 1e6 * (verb.steps or 16)
        result = {
            "name": verb.name, "env": "pusht", "obs": "keypoints", "max_steps": 300, "sampler": {}, "primary": "max_overlap", "lwd": "0",
            "records": records, "hardware": {"cpu": "fake", "device": "cpu"}, "queries_per_episode": 2.0,
            "ms_per_query": {"p50": 2.0 * (verb.steps or 16)}, "ms_per_control_step": {"p50": 0.1},
            "flops_per_step": {"query": flops / (verb.horizon or 1), "policy": 1.0, "amortised_total": 2.0},
            "scores": {"max_overlap": {"kind": "mean"}},
        }  # fmt: skip
        task.output.parent.mkdir(parents=True, exist_ok=True)
        task.output.write_text(json.dumps(result))
    for task in tasks:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        task.stamp.write_text(json.dumps({"argv": list(task.argv), "recipe": task.recipe, "seconds": 1.0}))
    assert all(task.finished() is not None for task in tasks)
    return cells, {task.name: Outcome("done", 1.0) for task in tasks}


def written(study: Study, score: Any = None) -> tuple[dict[str, Any], str]:
    """JSON and markdown that a study makes of such files."""
    result = write_outputs(study, *fill(study, score))
    folder = study.directory
    assert json.loads((folder / f"{study.name}.json").read_text())["pooled"] == json.loads(json.dumps(result["pooled"]))
    text = (folder / f"{study.name}.md").read_text()
    pictures = list(folder.glob("*.png"))
    assert pictures and all(picture.stat().st_size > 3000 and picture.name in text for picture in pictures)
    return result, text


def pooled(result: Mapping[str, Any], **labels: Any) -> Mapping[str, Any]:
    found = [entry for entry in result["pooled"] if all(entry[key] == value for key, value in labels.items())]
    assert len(found) == 1, labels
    return found[0]


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("preset", ["cpu", "debug"])
def test_grids(kind: Any, preset: str, tmp_path: Path) -> None:
    """Names are unique, needs are there, the commands parse, and settings are ones that a config accepts."""
    study = tyro.cli(kind, args=["--preset", preset, "--seeds", "1", "--out", str(tmp_path), "--episodes", "4"])
    tasks, cells = study.grid()
    names = [task.name for task in tasks]
    assert len(set(names)) == len(names) and len({task.output for task in tasks}) == len(tasks)
    assert all(need in names[:at] for at, task in enumerate(tasks) for need in task.needs), "what is needed comes before"
    points = [(cell.seed, *cell.labels.items()) for cell in cells]
    assert len(set(points)) == len(points)
    assert {cell.task.name for cell in cells} == {task.name for task in tasks if task.kind == "eval"}
    chosen = {task.group: task for task in tasks if task.kind == "train"}.values()  # parsing costs a quarter of a second
    for task in list(chosen)[:: 1 if preset == "debug" else 3]:
        config = config_of(task)
        assert Path(config.out) == task.run and config.threads == 1
        if isinstance(config.method, LatentConfig) and config.method.autoencoder_from:
            base = next(other for other in tasks if other.name == task.needs[0])
            assert str(base.run) == config.method.autoencoder_from
    for task in [task for task in tasks if task.kind == "eval"][::5]:
        verb = eval_of(task)
        assert verb.name in task.output.name and verb.episodes == 4


def test_kl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def links(run: Path, device: str) -> dict[str, float | None]:
        asked.append(run)
        beta = float(run.name.split("-s")[0].removeprefix("beta"))
        return {"rate": -np.log(beta), "sigma": 0.5, "final_state": 10 - np.log10(beta), "replayed": 0.1, "moved": 40.0, "one_step": None}

    monkeypatch.setattr(kl, "links", links)
    monkeypatch.setattr(kl, "encoded", lambda run, device: (np.random.default_rng(0).normal(size=(50, 4)), np.linspace(0, 1, 50)))
    study = Kl(out=str(tmp_path), betas=(1e-8, 1e-4), seeds=2, episodes=4, horizon=32)
    result, text = written(study, lambda labels, seed: 0.8 if labels["beta"] < 1e-5 else 0.3)
    assert {path.name for path in tmp_path.glob("*.png")} == {"figure12.png", "figure12-score.png", "figure13.png"}
    assert [(row["beta"], row["seed"]) for row in result["links"]] == [(1e-8, 0), (1e-4, 0), (1e-8, 1), (1e-4, 1)]
    assert pooled(result, beta=1e-8, perturbation=50.0)["scores"]["max_overlap"]["mean"] == pytest.approx(0.81)
    assert "| 1e-08 | 18.4 (18.4 to 18.4) |" in text
    assert len(asked) == 4
    fill(study)
    study.extras(result)
    assert len(asked) == 8, "the trainings were made anew: measured anew"
    study.extras(result)
    assert len(asked) == 8, "nothing has changed: nothing is measured again"
    config = config_of(study.grid()[0][0])
    assert isinstance(config.method, LWDConfig) and config.method.beta == 1e-8
    with pytest.raises(LWDError, match="positive"):
        Kl(out=str(tmp_path), betas=(0.0,)).grid()


def test_worldmodel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def links(run: Path, device: str) -> dict[str, float | None]:
        error = None if run.name.startswith("without") else 0.3
        return {"rate": 12.0, "sigma": 0.5, "final_state": 30.0, "replayed": 0.1, "moved": 90.0, "one_step": error, "open_loop": error}

    monkeypatch.setattr(kl, "links", links)
    study = WorldModel(out=str(tmp_path), imagination=(1, 4), seeds=2, episodes=4)
    result, text = written(study, lambda labels, seed: 0.6 if labels["variant"] == "k = 4" else 0.5)
    apart = next(d for d in result["differences"] if d["variant"] == "k = 4" and d["perturbation"] == 0.0)
    assert apart["mean"] == pytest.approx(-0.1) and apart["pairs"] == 8 and "without minus the others" in text
    assert "| without | – | – | 30.0 (30.0 to 30.0) |" in text and "| k = 4 | 0.30 (0.30 to 0.30) |" in text
    methods = {task.arm: config_of(task).method for task in study.grid()[0] if task.kind == "train" and task.name.endswith("s0")}
    assert [(m.world_model, m.imagination) for m in methods.values()] == [(False, 1), (True, 1), (True, 4)]  # type: ignore[attr-defined]
    with pytest.raises(LWDError, match="between 1 and 16"):
        WorldModel(out=str(tmp_path), horizon=16, imagination=(32,)).grid()


def test_latent(tmp_path: Path) -> None:
    study = Latent(out=str(tmp_path), seeds=2, episodes=4)
    scores = {"prior": 0.1, "gaussian": 0.2, "regression": 0.3, "diffusion": 0.7, "flow": 0.7}
    result, text = written(study, lambda labels, seed: scores[labels["source"]])
    assert len(result["cells"]) == 5 * 2 * 2 * 2
    against = next(d for d in result["differences"] if (d["source"], d["horizon"], d["perturbation"]) == ("regression", 128, 50.0))
    assert against["mean"] == pytest.approx(0.4) and against["disjoint"] and "diffusion minus the others" in text
    tasks, cells = study.grid()
    trained = [task.name for task in tasks if task.kind == "train"]
    assert trained == [f"{name}-s{seed}" for seed in (0, 1) for name in ("base", "regression", "flow")]
    drawn = [eval_of(cell.task) for cell in cells if cell.labels["source"] in ("prior", "gaussian") and cell.seed == 0]
    assert {(verb.latent, Path(verb.run).name) for verb in drawn} == {("prior", "base-s0"), ("gaussian", "base-s0")}
    with pytest.raises(LWDError, match="there is no gan"):
        Latent(out=str(tmp_path), sources=("gan",)).grid()
    with pytest.raises(LWDError, match="no finished run"):
        Latent(out=str(tmp_path), base=(str(tmp_path / "nothing"),)).grid()


def test_a_given_base(tmp_path: Path) -> None:
    """Variants on a run that was trained elsewhere keep its settings and wait for nothing."""
    method = replace(PRESETS["pusht"][1].method, policy=(32, 32), world_model=True, autoencoder_from="elsewhere")  # type: ignore[call-arg]
    config = replace(PRESETS["pusht"][1], seed=7, horizon=64, mirror=False, method=method)
    run = tmp_path / "given"
    (run / "checkpoints" / "one").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"config": to_dict(config)}))
    (run / "checkpoints" / "one" / "state.json").write_text(json.dumps({"done": ["autoencoder", "diffusion"]}))
    (run / "checkpoints" / "latest.json").write_text(json.dumps({"checkpoint": "one"}))
    tasks, cells = Latent(out=str(tmp_path / "study"), base=(str(run),), sources=("diffusion", "flow")).grid()
    assert [task.name for task in tasks if task.kind == "train"] == ["flow-s7"]
    assert {cell.seed for cell in cells} == {7} and tasks[0].needs == () and tasks[0].argv[1] == str(run)
    flow = next(task for task in tasks if task.kind == "train")
    expected = replace(config, method=replace(method, objective="flow", autoencoder_from=str(run)))  # type: ignore[call-arg]
    ours = config_of(flow)
    assert flow.needs == () and ours.method == expected.method and (ours.horizon, ours.mirror, ours.seed) == (64, False, 7)
    assert option_words(to_dict(config), to_dict(config)) == ()
    with pytest.raises(LWDError, match="takes runs of diffusion_policy"):
        Steps(out=str(tmp_path / "steps"), dp_base=(str(run),)).grid()
    with pytest.raises(LWDError, match="same training seed"):
        Latent(out=str(tmp_path / "study"), base=(str(run), str(run))).grid()


def test_denoiser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwd.studies.denoiser.parameters", lambda run: 2_000_000)
    study = Denoiser(out=str(tmp_path), seeds=1, episodes=4)
    result, text = written(study, lambda labels, seed: 0.1 + labels["steps"] / 10_000)
    assert (tmp_path / "figure14.png").exists() and "| transformer | 2.00 | 16 | 32 |" in text
    assert pooled(result, denoiser="unet-8x8", steps=4000, perturbation=0.0)["scores"]["max_overlap"]["mean"] == pytest.approx(0.51)
    made = {task.name: config_of(task).method for task in study.grid()[0] if task.kind == "train" and "1000" in task.name}
    folded = made["unet-8x8-1000-s0"]
    assert isinstance(folded, LWDConfig) and (folded.denoiser, folded.unet_fold, folded.diffusion.steps) == ("unet", 8, 1000)
    assert folded.autoencoder.steps == 5000 and folded.diffusion.warmup == 100, "the last one of a repeated option counts"
    for name in ("unet-16x8", "unet-32x2"):
        with pytest.raises(LWDError, match="does not hold a latent of 64"):
            Denoiser(out=str(tmp_path), denoisers=(name,)).grid()
    for name in ("gru", "mlp-0", "transformer-8"):
        with pytest.raises(LWDError, match=f"there is no {name}; choose from mlp, mlp-W"):
            Denoiser(out=str(tmp_path), denoisers=("mlp", name)).grid()
    narrow = Denoiser(out=str(tmp_path), denoisers=("mlp-128",), steps=(1000,), seeds=1).grid()[0]
    methods = [config_of(task).method for task in narrow if "mlp-128-1000" in task.name and task.kind == "train"]
    assert [(method.denoiser, method.denoiser_width) for method in methods if isinstance(method, LWDConfig)] == [("mlp", 128)]


@pytest.mark.parametrize("horizon", [16, 32, 128])
def test_decoders_of_equal_size(horizon: int) -> None:
    from lwd.methods.base import Spec, make_method

    def size(preset: str, **changes: Any) -> int:
        method: Any = replace(PRESETS[preset][1].method, **changes)
        spec = Spec(hypernetwork.FEATURES, hypernetwork.ACTIONS, horizon, horizon)
        return sum(p.numel() for p in make_method(method, spec).decoder.parameters())  # type: ignore[union-attr]

    own = PRESETS["pusht"][1].method
    assert isinstance(own, LWDConfig)
    target = size("pusht")
    assert target == hypernetwork.hypernetwork_parameters(own)
    equal = size("pusht-ldp", decoder=hypernetwork.equal_hidden(own, horizon))
    assert abs(equal / target - 1) < 0.05
    with pytest.raises(LWDError, match="no decoder of equal size"):
        hypernetwork.equal_hidden(replace(own, decoder="xs", policy=(4, 4)), 5000)


def test_hypernetwork(tmp_path: Path) -> None:
    study = Hypernetwork(out=str(tmp_path), seeds=1, episodes=4, horizons=(16, 128))
    result, text = written(study)
    assert [row["horizon"] for row in result["sizes"]] == [16, 128] and "hidden layers at equal size" in text
    for row in result["sizes"]:
        counts = row["decoder_parameters"]
        assert abs(counts["ldp, equal size"] / counts["lwd"] - 1) < 0.05 and counts["ldp, 2 x 256"] < 0.2 * counts["lwd"]
    debug = Hypernetwork(preset="debug", out=str(tmp_path), seeds=1)
    made = {task.name: config_of(task).method for task in debug.grid()[0] if task.kind == "train"}
    lwd, ldp = made["lwd-s0"], made["ldp-equal-h16-s0"]
    shared = ("latent", "encoder", "beta", "denoiser_width", "denoiser_depth", "diffusion", "autoencoder", "sampler_steps")
    assert all(getattr(lwd, name) == getattr(ldp, name) for name in shared), "same encoder, same latent diffusion"


def test_steps(tmp_path: Path) -> None:
    study = tyro.cli(Steps, args=["--out", str(tmp_path), "--seeds", "1", "--episodes", "4", "--warm", "0.25", "0.75"])
    result, text = written(study, lambda labels, seed: 0.4 + labels["steps"] / 100)
    assert len(result["cells"]) == (2 * 4 * 5 + 2) * 2
    warm = [row for row in result["costs"] if row["warm"]]
    assert [(row["steps"], row["flops"], row["ms"]) for row in warm] == [(4, 16e6, 32.0), (12, 16e6, 32.0)], "as they were measured"
    tasks, cells = study.grid()
    one = next(cell for cell in cells if cell.labels["warm"] == 0.25)
    verb = eval_of(one.task)
    assert (verb.sampler, verb.steps, verb.warm_start, verb.name) == ("ddim", 16, 0.25, "h16_p0_n4_s100000_ddim16-warm0.25")
    assert "lwd ddim, warm" in text and "| dp euler | 16 | 16 | 32 |" in text
    flows = [config_of(task).method for task in tasks if task.kind == "train" and "flow" in task.name]
    assert [m.objective for m in flows] == ["flow", "flow"]  # type: ignore[attr-defined]
    euler = [task for task in tasks if task.kind == "eval" and "euler" in task.argv]
    assert all("flow" in task.needs[0] for task in euler) and len(euler) == 2 * 5 * 2
    assert config_of(next(task for task in tasks if task.name == "dp-s0")).horizon == 16
    assert [cell.labels["warm"] for cell in tyro.cli(Steps, args=["--warm"]).grid()[1] if cell.labels["warm"]] == []
    with pytest.raises(LWDError, match="between 0 and 1"):
        Steps(out=str(tmp_path), warm=(1.0,)).grid()


def fake_row(method: str, horizon: int, seconds: float, every: Sequence[int]) -> dict[str, Any]:
    stage = {"steps": 100, "batch": 8, "ms_per_step": 10.0, "flops_per_step": 10**9, "prepare_seconds": 0.0, "seconds": seconds}
    use = {
        str(h): {
            "ms_per_query": {"p50": 10.0},
            "ms_per_control_step": {"p50": 0.1},
            "flops_per_step": {"query": 1e6 / h, "policy": 1.0, "amortised_total": 1e6 / h + 1},
        }
        for h in every
    }
    return {
        "method": method,
        "preset": "x",
        "seed": 0,
        "run": None,
        "horizon": horizon,
        "parameters": {"net": 10},
        "stages": {"a": stage},
        "use": use,
    }


def test_cost_tables(tmp_path: Path) -> None:
    rows = [fake_row("lwd", 32, 60.0, (16, 128)), fake_row("lwd", 32, 180.0, (16, 128)), fake_row("dp", 16, 60.0, (16,))]
    training, use = cost.tables(rows)
    assert training.rows[0] == ["lwd, 32 steps, a", "100", "8", "10", "1", "0.1", "2"] and len(training.rows) == 2
    assert [row[0] for row in use.rows] == ["lwd, every 16", "lwd, every 128", "dp, every 16"] and use.rows[1][2] == "1"
    assert cost.figure(rows, tmp_path / "cost.png").stat().st_size > 5000
    with pytest.raises(LWDError, match="no finished run"):
        Cost(runs=(str(tmp_path),), out=str(tmp_path / "study"))()


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)


def test_cost_measures(tmp_path: Path, one_core: None, capsys: Any) -> None:
    pytest.importorskip("gym_pusht")
    Cost(preset="debug", methods=("mlp",), out=str(tmp_path), horizons=(8,), json=True)()
    result = json.loads(capsys.readouterr().out)
    assert result["rows"][0]["stages"]["cloning"]["steps"] == 20_000
    batch, weights = 1024, (18 * 128, 128 * 128, 128 * 2)
    assert result["rows"][0]["stages"]["cloning"]["flops_per_step"] == batch * 2 * (3 * sum(weights) - weights[0])
    assert {path.name for path in tmp_path.iterdir()} >= {"cost.json", "cost.md", "cost.png"}


def test_debug_latent_end_to_end(tmp_path: Path) -> None:
    """Stage 2 alone on a trained autoencoder, other draws, and the pictures of the latents, for real."""
    pytest.importorskip("gym_pusht")
    out = tmp_path / "study"
    Latent(
        preset="debug", sources=("gaussian", "regression"), horizons=(16,), perturbations=(50.0,), seeds=1, episodes=2, jobs=2, out=str(out)
    )()
    result = json.loads((out / "latent.json").read_text())
    assert {cell["source"]: cell["sampler"]["latent"] for cell in result["cells"]} == {"gaussian": "gaussian", "regression": "model"}
    regressed = next(cell for cell in result["cells"] if cell["source"] == "regression")
    assert regressed["training_seconds"]["autoencoder"] == 0 and regressed["flops_per_step"]["query"] > 0
    base = Path(out / "runs" / "base-s0")
    found = kl.links(base, "cpu")
    assert found["rate"] is not None and found["rate"] > 0 and found["replayed"] is not None and found["replayed"] < 5
    assert found["final_state"] is not None and found["one_step"] is not None and found["open_loop"] is not None
    assert kl.map_figure({1e-6: base}, out / "map.png", "cpu").stat().st_size > 5000
