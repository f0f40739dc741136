"""What a training step costs, measured on the trainer's own objects; for `lwd study cost`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any

from lwd.config import Config, Stage, require

SKIPPED = 3  # training steps before the clock starts


def measure(config: Config, horizons: Sequence[int], steps: int) -> dict[str, Any]:
    """Time a few training steps of every stage as the trainer makes them, count the FLOPs of one, and measure queries.

    Args:
        config: of a training.
        horizons: steps between queries.
        steps: that are timed, after a few that are not.

    Returns:
        `parameters` by module, `stages` (steps, ms_per_step, flops_per_step, prepare_seconds, seconds), `use` for each horizon.
    """
    import torch
    from lightning_fabric import Fabric

    from lwd.envs.base import family
    from lwd.evaluate import first_observations, measure_cost
    from lwd.loop import Trainer
    from lwd.run import Run
    from lwd.train import load_data, make_spec, precision

    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or 1)  # as in the tasks of a study
    try:
        training, held = load_data(config)
        spec = make_spec(config, training)
        fabric = Fabric(accelerator=config.device, devices=1, precision=precision(config))
        trainer = Trainer(config, spec, Run("unused"), fabric, training, held, True)
        method = trainer.method
        stages = {stage: time_stage(trainer, stage, getattr(config.method, stage), steps) for stage in method.stages}
        parts = {name: sum(p.numel() for p in module.parameters()) for name, module in method.named_children()}
        require(spec.env is not None, f"{config.data} names no environment: there are no observations to plan from")
        method.to("cpu" if config.device == "auto" else config.device).eval().requires_grad_(False)
        assert spec.env is not None
        obs = first_observations(family(spec.env).name, spec.obs, range(100_000, 100_008))
        use = {str(horizon): {k: v for k, v in measure_cost(method, obs, horizon).items() if k != "device"} for horizon in horizons}
    finally:
        torch.set_num_threads(threads)
    return {"parameters": {name: count for name, count in parts.items() if count}, "stages": stages, "use": use}


def time_stage(trainer: Any, stage: str, settings: Stage, steps: int) -> dict[str, Any]:
    """One stage: the median step, of which the averaging of weights is a part, and what comes before the first one."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lwd.loop import Average

    method, generator = trainer.method, trainer.generator
    begin = perf_counter()
    method.prepare(stage, trainer.data)
    prepare = perf_counter() - begin
    groups, fused = method.groups(stage), trainer.fabric.device.type in ("cpu", "cuda")
    owned = {id(p) for parameters, _ in groups.values() for p in parameters}
    for parameter in method.parameters():
        parameter.requires_grad_(id(parameter) in owned)
    optimizers = [
        torch.optim.AdamW(parameters, lr=lr, weight_decay=settings.weight_decay, fused=fused) for parameters, lr in groups.values()
    ]
    average = Average({k: p for k, p in method.named_parameters() if id(p) in owned}, trainer.config.method.ema_power)

    def step(number: int) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        batch = trainer.data.sample(settings.batch, generator)
        with trainer.fabric.autocast():
            # the last steps of a training: whatever is warmed up is on
            losses = method.loss(stage, batch, settings.steps - 1, generator)
        losses["loss"].backward()
        for optimizer in optimizers:
            optimizer.step()
        average.update(number)
        if trainer.fabric.device.type == "cuda":
            torch.cuda.synchronize()

    times = []
    for number in range(SKIPPED + steps):
        begin = perf_counter()
        step(number)
        times.append(perf_counter() - begin)
    with FlopCounterMode(display=False) as counter:
        step(SKIPPED + steps)
    typical = median(times[SKIPPED:])
    return {
        "steps": settings.steps,
        "batch": settings.batch,
        "ms_per_step": 1e3 * typical,
        "flops_per_step": int(counter.get_total_flops()),
        "prepare_seconds": prepare,
        "seconds": prepare + settings.steps * typical,
    }
