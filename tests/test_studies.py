"""Studies: what each declares, and the running of jobs: order, resume, failure, signals, Ray."""

from __future__ import annotations

import dataclasses
import importlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import reaching, tiny_method
from lwd.cli import main
from lwd.config import Config, EvalSettings, LWDConfig, RandomConfig, Stage, from_dict, to_dict
from lwd.data.formats.npz import save_npz
from lwd.data.prepare import load_data, make_spec
from lwd.errors import LWDError
from lwd.files import locked
from lwd.methods.base import make_method
from lwd.studies import STUDIES
from lwd.studies.execute import Outcome, execute, run_job
from lwd.studies.jobs import Job, Plan
from lwd.studies.study import Options, Study, second_stage
from lwd.training.run import Run


def declared(name: str) -> Study:
    return importlib.import_module(f"lwd.studies.{name}").STUDY


def plan(name: str, out: Path, *axes: str, **options: Any) -> Plan:
    return Plan(name, declared(name), Options(out=str(out), axes=axes, **options))


def kind(job: Job) -> str:
    return str(job.content["kind"])


def configs(made: Plan) -> dict[str, Config]:
    return {job.name: from_dict(Config, job.content["config"]) for job in made.jobs.values() if kind(job) == "train"}


# --- declarations -----------------------------------------------------------------------------------------------------------------------

COUNTS = {  # trainings, evaluations, measurements of one training seed
    ("horizon", "cpu"): (19, 222, 0),
    ("horizon", "paper"): (14, 100, 0),
    ("horizon", "lift"): (6, 21, 0),
    ("horizon", "can"): (6, 21, 0),
    ("operators", "lift"): (3, 5, 3),
    ("operators", "can"): (3, 5, 3),
    **{("behaviour", robot): (4, 10, 2) for robot in ("halfcheetah", "ant", "walker2d", "hammer")},
    ("compute", "cpu"): (13, 15, 0),
    ("compute", "paper"): (16, 16, 0),
    ("snippets", "cpu"): (2, 2, 2),
    ("decoder", "cpu"): (8, 8, 0),
    ("kl", "cpu"): (6, 12, 6),
    ("denoiser", "cpu"): (16, 30, 0),
    ("worldmodel", "cpu"): (10, 72, 0),
    ("latent", "cpu"): (3, 20, 0),
    ("hypernetwork", "cpu"): (7, 18, 0),
    ("weights", "cpu"): (3, 12, 0),
    ("weights", "mt10"): (4, 4, 0),
    ("weights", "mt50"): (4, 4, 0),
    ("steps", "cpu"): (4, 60, 0),
    ("cost", "cpu"): (0, 0, 0),
    ("cost", "paper"): (0, 0, 0),
    ("multitask", "cpu"): (3, 3, 0),
    ("multitask", "mt50"): (4, 5, 0),
}


@pytest.mark.parametrize(("name", "variant"), list(COUNTS))
def test_every_study_declares_its_jobs(name: str, variant: str, tmp_path: Path) -> None:
    made = plan(name, tmp_path, variant=variant, seeds=1)
    kinds = Counter(kind(job) for job in made.jobs.values())
    assert (kinds["train"], kinds["evaluate"] + kinds["decode"], kinds["links"] + kinds["separability"]) == COUNTS[name, variant]
    assert {(n, v) for n in STUDIES for v in declared(n).variants} == set(COUNTS)
    seen: set[str] = set()
    for job in made.jobs.values():
        assert set(job.needs) <= seen, "what is needed comes before"
        seen.add(job.name)
        assert json.loads(json.dumps(job.content)) is not None
        if kind(job) == "train":
            config = from_dict(Config, json.loads(json.dumps(job.content["config"])))
            assert json.loads(json.dumps(to_dict(config))) == json.loads(json.dumps(job.content["config"])) and config.threads == 1
            first = config.method.stages_from
            assert (first == str(made.jobs[job.needs[0]].run)) if first else not job.needs
        elif kind(job) == "evaluate":
            assert from_dict(EvalSettings, dict(job.content["settings"])).episodes == declared(name).episodes
    assert len({job.output for job in made.jobs.values()}) == len(made.jobs)
    tiny = plan(name, tmp_path, variant=variant, debug=True)
    assert len(tiny.cells) <= 16 and all(len(values) <= 2 for values in tiny.axes.values())
    assert all(stage.steps <= 20 for config in configs(tiny).values() for stage in config.method.stages.values())


def test_declarations_are_light_and_help_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    names = ", ".join(f"lwd.studies.{name}" for name in STUDIES)
    code = f"import sys, lwd.commands.study, {names}; print([m for m in ('torch', 'pandas', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    assert main(["study"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in STUDIES) and shown.count("\n") == len(STUDIES)
    with pytest.raises(SystemExit):
        main(["study", "--help"])
    shown = capsys.readouterr().out
    assert all(f"{name}:" in shown for name in STUDIES) and "--variant" in shown


def test_recipes(tmp_path: Path) -> None:
    betas = configs(plan("kl", tmp_path, "beta=3e-6", seeds=1)).values()
    assert [(c.method.beta, c.method.autoencoder.steps, c.horizon) for c in betas] == [(3e-6, 5000, 32)]  # type: ignore[attr-defined]
    folded = next(c.method for n, c in configs(plan("denoiser", tmp_path, seeds=1)).items() if n.startswith("gradient_steps1000-unet-8x8"))
    assert isinstance(folded, LWDConfig) and (folded.denoiser, folded.unet_fold, folded.unet_size) == ("unet", 8, "s")
    assert folded.diffusion == replace(folded.diffusion, steps=1000, batch=128, warmup=100) and folded.autoencoder.steps == 5000
    narrow = configs(plan("denoiser", tmp_path, "denoiser=mlp-128 gradient_steps=1000", seeds=1))
    assert [c.method.denoiser_width for c in narrow.values() if c.method.stages["diffusion"].steps == 1000] == [128]  # type: ignore[attr-defined]
    arms = {
        name: c.method
        for arm in ("lwd", "lwd-rollout4", "lwd-continued", "lwd-imagine", "mlp-improved")
        for name, c in configs(plan("worldmodel", tmp_path, f"method={arm}", seeds=1)).items()
    }
    facts = {(m.name, m.imagine, getattr(m, "world_model", None), getattr(m, "rollout_steps", 0), tuple(m.stages)) for m in arms.values()}
    lwd, mlp = ("world", "autoencoder", "diffusion"), ("world", "cloning")
    assert facts == {
        ("lwd", True, False, 1, lwd),
        ("lwd", False, True, 4, lwd[1:]),
        ("lwd", True, False, 1, (*lwd, "improvement")),
        ("mlp", True, None, 0, mlp),
        ("mlp", True, None, 0, (*mlp, "improvement")),
    }
    continued = [m.improvement.weight for m in arms.values() if getattr(m, "improve", False)]
    assert sorted(continued) == [0.0, 0.1], "continued has the same steps, without imagination"
    whole, short = configs(plan("snippets", tmp_path, seeds=1)).values()
    assert (whole.starts, whole.horizon, whole.method.stride, whole.holdout) == ("first", 500, 5, 0.2)  # type: ignore[attr-defined]
    assert (short.starts, short.horizon, short.method.stride) == ("every", 50, 1)  # type: ignore[attr-defined]
    paper = configs(plan("compute", tmp_path, "model=lwd-512,dp-xl-128,mlp-128", variant="paper", seeds=1))
    lwd, dp, mlp = (config.method for config in paper.values())
    assert lwd.policy == (512, 512) and lwd.stages["diffusion"].steps == 31_300 and (lwd.decoder, lwd.beta) == ("xs", 1e-6)  # type: ignore[attr-defined]
    assert (dp.unet_size, dp.history, dp.sampler_steps) == ("xl", 2, 100) and mlp.policy == (128, 128)  # type: ignore[attr-defined]
    often = plan("compute", tmp_path, "model=dp-mlp-32,dp-mlp-32-every-4", seeds=1)
    assert [point.test.content["settings"]["replan_every"] for point in often.points] == [16, 4] and len(configs(often)) == 1
    many = configs(plan("multitask", tmp_path, "method=mlp-large demonstrations=0,5", variant="mt50", seeds=1))
    assert [(c.demonstrations, c.method.policy, c.method.cloning.steps) for c in many.values()] == [  # type: ignore[attr-defined]
        (0, (850, 850), 50_000),
        (5, (850, 850), 50_000),
    ]
    steps = plan("multitask", tmp_path, "method=lwd,lwd-2-steps", variant="mt50", seeds=1)
    assert [point.test.content["settings"]["sampler_steps"] for point in steps.points] == [0, 2] and len(configs(steps)) == 1


@pytest.mark.parametrize("horizon", [16, 32, 128])
def test_decoders_of_equal_size(horizon: int, tmp_path: Path) -> None:
    from lwd.methods.base import Spec, make_method

    made = plan("hypernetwork", tmp_path, f"method=lwd,ldp-equal replan_every={horizon}", seeds=1)
    sizes = [make_method(c.method, Spec(18, 2, c.horizon, c.horizon)).parameter_counts()["decoder"] for c in configs(made).values()]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
    lwd, ldp = (config.method for config in configs(made).values())
    shared = [name for name in vars(lwd) if name in vars(ldp) and name != "decoder"]
    assert "beta" in shared and all(getattr(lwd, name) == getattr(ldp, name) for name in shared)


def test_the_rivals_of_the_horizon_study(tmp_path: Path) -> None:
    """Chunks last for interval and delay, the correction takes its own chunks over, and wrappers are settings of the evaluation."""
    methods, axes = "lwd,lwd-mean4,dp,dp-temporal,dp-a2c2", ("replan_every=8,16", "disturb=none,displace:50", "delay=0,8")
    made = plan("horizon", tmp_path, f"method={methods}", *axes, seeds=1)
    for point in made.points:
        cell, settings = point.cell, from_dict(EvalSettings, dict(point.test.content["settings"]))
        config = from_dict(Config, point.training.content["config"])
        assert (settings.replan_every, settings.disturb, settings.delay) == (cell.replan_every, cell.disturb, cell.delay)
        assert (settings.ensemble, settings.temporal) == (4 if cell.method == "lwd-mean4" else 1, cell.method == "dp-temporal")
        if cell.method.startswith("dp"):
            assert config.horizon >= cell.replan_every + cell.delay
            assert config.horizon == (16 if cell.replan_every + cell.delay <= 16 else 40)
        if cell.method == "dp-a2c2":
            (base,) = (made.jobs[need] for need in point.training.needs)
            plain = from_dict(Config, base.content["config"])
            assert config.method.stages_from == str(base.run) and list(config.method.stages) == ["diffusion", "correction"]
            assert plain.horizon == config.horizon and plain.method.stages == {"diffusion": config.method.stages["diffusion"]}
            others = [p.training for p in made.points if p.cell.method == "dp"]
            assert base in others, "the chunks that are corrected are those of the rival without a correction"
    delayed = {(point.cell.method, point.cell.disturb) for point in made.points if point.cell.delay}
    assert delayed == {(method, "none") for method in ("lwd", "dp", "dp-a2c2")}


# --- trainings are shared ---------------------------------------------------------------------------------------------------------------


def test_equal_trainings_are_one(tmp_path: Path) -> None:
    made = plan("latent", tmp_path, seeds=2)
    trained = configs(made)
    assert [c.method.objective for c in trained.values()] == ["diffusion", "regression", "flow"] * 2  # type: ignore[attr-defined]
    drawn = {p.cell.source: p for p in made.points if not p.cell.seed}
    assert drawn["prior"].training is drawn["gaussian"].training is drawn["diffusion"].training
    assert drawn["prior"].test.content["settings"]["latent"] == "prior"
    alone = plan("latent", tmp_path, "source=flow", seeds=1)
    assert [kind(job) for job in alone.jobs.values()][:2] == ["train", "train"], "the base is trained for its first stage"
    one, other = plan("kl", tmp_path, "beta=3e-6"), plan("hypernetwork", tmp_path, "method=lwd")
    keys = [{job.key for job in study.jobs.values() if kind(job) == "train"} for study in (one, other)]
    assert keys[0] == keys[1], "two studies with one --runs share these trainings"
    elsewhere = plan("kl", tmp_path, "beta=3e-6", device="cuda")
    assert {job.key for job in elsewhere.jobs.values() if kind(job) == "train"} == keys[0], "a device changes no training"
    assert not {p.test.key for p in elsewhere.points} & {p.test.key for p in one.points}, "but it changes what a query costs"
    moved = plan("kl", tmp_path, "beta=3e-6", data="other.npz")
    assert not {job.key for job in moved.jobs.values()} & keys[0]
    mlp = plan("compute", tmp_path, "model=mlp-128 sampler_steps=2,16", seeds=1)
    assert len(mlp.cells) == 2 and mlp.points[0].test is mlp.points[1].test, "an MLP does not denoise: it is evaluated once"


def test_a_run_is_found_by_its_settings_whatever_its_name(tmp_path: Path) -> None:
    made = plan("kl", tmp_path, "beta=1e-6", seeds=1)
    (run,) = (job.run for job in made.jobs.values() if kind(job) == "train")
    renamed = run.with_name(f"mine-{run.name.rpartition('-')[2]}")
    renamed.mkdir(parents=True)
    assert {job.run for job in plan("kl", tmp_path, "beta=1e-6,1e-5", seeds=1).jobs.values()} > {renamed}


@pytest.mark.parametrize(
    ("name", "axes", "message"),
    [
        ("latent", "disturb=shove:4", "the names of disturbances are none, displace"),
        ("latent", "sauce=prior", "no such axis.*source, replan_every, disturb"),
        ("latent", "prior", "no such axis"),
        ("latent", "source=gan", "knows prior, gaussian, regression, diffusion, flow"),
        ("latent", "replan_every=often", "knows 16, 128, and other numbers"),
        ("latent", "replan_every=16,16", "twice"),
        ("latent", "disturb=displace:-1", "a magnitude of at least 0"),
        ("latent", "disturb=50", "a disturbance is none or NAME:MAGNITUDE"),
        ("horizon", "method=lwd,ppo", "knows lwd, lwd-improved, lwd-imagine"),
        ("denoiser", "denoiser=gru", "mlp-128"),
        ("snippets", "length=1000", "2 to 500 steps"),
        ("worldmodel", "method=lwd-rollout64", "knows lwd, lwd-rollout1"),
    ],
)
def test_bad_axes(name: str, axes: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(LWDError, match=message):
        plan(name, tmp_path, *axes.split(","))


def test_refusals_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str) -> str:
        assert main(["study", *words, "--out", str(tmp_path / "study")]) == 2
        assert not (tmp_path / "study").exists()
        return capsys.readouterr().err

    assert "choose from horizon, compute" in refused("horizont")
    assert "--yes" in refused("horizon", "--variant", "paper")
    assert "no variant 'gpu': choose from cpu, paper" in refused("horizon", "--variant", "gpu")
    assert "nowhere.npz" in refused("latent", "--data", str(tmp_path / "nowhere.npz"))
    assert "--seeds" in refused("latent", "--seeds", "0") and "--jobs" in refused("latent", "--jobs", "-1")
    assert main(["study", "latent", "--plan", "--out", str(tmp_path / "study")]) == 0
    shown = capsys.readouterr().out
    assert "axis  source = prior, gaussian" in shown and shown.count("to do") == 69 and "60 cells, 69 jobs, 0 of them done" in shown


# --- running jobs -----------------------------------------------------------------------------------------------------------------------


class Here(Executor):
    """Runs nothing: a job ends at once, and has written its output unless it is to fail."""

    def __init__(self, made: Plan, fails: tuple[str, ...] = ()) -> None:
        self.made, self.fails, self.order = made, fails, list[str]()

    def submit(self, function: Any, /, file: Path, *others: Any, **options: Any) -> Future[Any]:
        job, ended = self.made.jobs[file.stem], Future[int]()
        assert json.loads(file.read_text()) == json.loads(json.dumps(job.content)), "the process finds its content in the file"
        self.order.append(job.name)
        if job.name not in self.fails:
            job.output.parent.mkdir(parents=True, exist_ok=True)
            job.output.write_text("{}")
        job.log.write_text("the disk is on fire\n" * (job.name in self.fails))
        ended.set_result(int(job.name in self.fails))
        return ended


def run(made: Plan, here: Here, slots: int = 2) -> dict[str, Outcome]:
    return execute(made.jobs, here, slots, made.folder / ".stop")


def test_order_and_resume(tmp_path: Path) -> None:
    made = plan("latent", tmp_path, "source=diffusion,flow disturb=none", seeds=1)
    first = Here(made)
    outcomes = run(made, first, slots=1)
    assert {o.state for o in outcomes.values()} == {"done"} and list(outcomes) == list(made.jobs)
    for job in made.jobs.values():
        assert all(first.order.index(need) < first.order.index(job.name) for need in job.needs)
    kinds = [kind(made.jobs[name]) for name in first.order]
    assert kinds == ["train", "evaluate", "evaluate", "train", "evaluate", "evaluate"], "what can be evaluated is, before more is trained"
    again = Here(made)
    assert run(made, again) == outcomes and again.order == [], "what is finished is not run again"
    lost = made.points[0].test
    lost.output.unlink()
    run(made, again)
    assert again.order == [lost.name]
    other = plan("latent", tmp_path, "source=diffusion,flow disturb=none", seeds=1, episodes=7)
    more = Here(other)
    run(other, more)
    assert len(more.order) == 4, "other episodes: new evaluations of the same trainings"


def test_a_failure_stops_only_what_needs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = plan("latent", tmp_path, "source=diffusion,flow replan_every=16 disturb=none", seeds=2)
    base, flow = (job.name for job in list(made.jobs.values()) if kind(job) == "train" and "-s0-" in job.name)
    outcomes = run(made, Here(made, fails=(base,)))
    assert Counter(o.state for o in outcomes.values()) == {"failed": 1, "skipped": 3, "done": 4}
    assert outcomes[base].note.endswith("the disk is on fire") and outcomes[flow].note == f"{base} failed"
    shown = capsys.readouterr().err
    assert f"failed  {base}" in shown and "[8/8]" in shown, "a line for each job that ends"
    assert {o.state for o in run(made, Here(made)).values()} == {"done"}, "the same command tries them again"


def job_of(folder: Path, config: Config) -> Job:
    """A training as a job."""
    content = {"kind": "train", "config": to_dict(config)}
    path = Path(config.out)
    return Job(path.name, content, "key", [], path / "checkpoints" / "latest.json", path, folder / "jobs" / f"{path.name}.json")


def test_a_real_job_that_fails_says_why(tmp_path: Path) -> None:
    job = job_of(tmp_path, Config(data=str(tmp_path / "lost.npz"), out=str(tmp_path / "run"), method=RandomConfig()))
    with ThreadPoolExecutor(1) as pool:
        outcome = execute({job.name: job}, pool, 1, tmp_path / ".stop")[job.name]
    assert outcome.state == "failed" and "lost.npz" in outcome.note and "Traceback" not in outcome.note
    assert outcome.note.splitlines()[-1] in job.log.read_text()
    assert job.finished() is None


SCRIPT = """
import json, sys
from contextlib import suppress
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_studies import job_of
from lwd.config import Config, from_dict
from lwd.studies.execute import execute
folder = Path({folder!r})
job = job_of(folder, from_dict(Config, json.loads((folder / "config.json").read_text())))
with ThreadPoolExecutor(1) as pool:
    print(execute({{job.name: job}}, pool, 1, folder / ".stop")[job.name].state)
"""


def test_sigterm_ends_with_a_checkpoint_and_the_same_command_continues(tmp_path: Path) -> None:
    save_npz(reaching(), tmp_path / "data.npz")
    method = tiny_method(autoencoder=Stage(steps=100_000, batch=16, lr=1e-3), world_model=False)
    config = Config(
        data=str(tmp_path / "data.npz"), out=str(tmp_path / "run"), horizon=8, threads=1, device="cpu", log_every=10, method=method
    )
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    command = [sys.executable, "-c", SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path))]
    study, reached = Run(config.out), [0]
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        limit = time.monotonic() + 120
        while not (study.exists and study.metrics() and study.metrics()[-1]["step"] > reached[-1]):
            assert process.poll() is None and time.monotonic() < limit, "the training never began"
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[0].strip() == "stopped"
        assert study.latest() is not None, "a checkpoint was written"
        reached.append(study.metrics()[-1]["step"])
    steps = [line["step"] for line in study.metrics()]
    assert steps == sorted(set(steps)) and steps[-1] > reached[1], "it went on where it was stopped"
    assert job_of(tmp_path, config).finished() is None
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while study.metrics()[-1]["step"] <= reached[-1]:
        time.sleep(0.1)
    killed.kill()
    killed.wait()
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        with suppress(LWDError), study.lock():
            return  # a study that is killed takes its jobs along
        time.sleep(0.1)
    raise AssertionError("the training goes on although its study was killed")


def test_ray_runs_the_same_jobs(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from lwd.studies.cluster import RayExecutor

    save_npz(reaching(), tmp_path / "data.npz")
    good = job_of(
        tmp_path, Config(data=str(tmp_path / "data.npz"), out=str(tmp_path / "good"), horizon=8, device="cpu", method=RandomConfig())
    )
    bad = job_of(tmp_path, Config(data=str(tmp_path / "lost.npz"), out=str(tmp_path / "bad"), device="cpu", method=RandomConfig()))
    jobs = {job.name: job for job in (good, bad)}
    with RayExecutor("local", 2, 0) as cluster:
        outcomes = execute(jobs, cluster, 2, tmp_path / ".stop")
    assert outcomes["good"].state == "done" and good.finished() is not None, outcomes
    assert outcomes["bad"].state == "failed" and "lost.npz" in outcomes["bad"].note


def test_nothing_is_started_on_a_cluster_that_was_asked_to_stop(tmp_path: Path) -> None:
    (tmp_path / "stop").write_bytes(b".")
    assert run_job(tmp_path / "job.json", tmp_path / "log", str(tmp_path), tmp_path / "stop") == -signal.SIGTERM
    assert not (tmp_path / "log").exists()


def test_one_study_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fcntl")
    with locked(tmp_path, "runs the study in"):
        assert main(["study", "latent", "--out", str(tmp_path)]) == 2
    assert f"another process runs the study in {tmp_path}: wait for it" in capsys.readouterr().err


def test_a_second_stage_names_no_path_of_its_own(tmp_path: Path) -> None:
    """A study that is moved finds its trainings again."""
    base = Config(horizon=8, method=tiny_method())
    study = Study(
        "moved", {"objective": ("flow",)}, lambda cell: second_stage(base, objective=cell.objective), lambda cell: EvalSettings(), base=base
    )
    here, there = (Plan("moved", study, Options(out=str(tmp_path / name), data="x", seeds=1)) for name in ("here", "there"))
    assert [job.key for job in here.jobs.values()] == [job.key for job in there.jobs.values()]
    assert dataclasses.replace(base).method.stages_from == ""  # type: ignore[attr-defined]


def test_decoders_of_equal_parameters(tmp_path: Path) -> None:
    """The policies of a low-rank decoder are as large as the parameters of the full decoder allow."""
    counts = []
    for config in configs(plan("weights", tmp_path, "equal=policy,parameters", "decoder=full,low-rank", seeds=1)).values():
        training, _ = load_data(replace(config, data="embedded", demonstrations=2, holdout=0.0))
        method = make_method(config.method, make_spec(config, training))
        counts.append((method.parameter_counts()["decoder"], method.policy_parameters or 0))
    (full, policy), (same, again), (equal, larger) = counts
    assert again == policy < larger and same < full and 0.99 * full < equal <= full
