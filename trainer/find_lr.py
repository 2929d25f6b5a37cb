"""The task `find_lr`: a learning-rate range test on the job's own data, model, batch and cluster.

Nothing is restored and nothing is saved: it begins with the weights that the training would begin with, and those that
its steps leave are thrown away.
"""

import importlib
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conf import exit_codes
from conf.phases import groups_of, optimizer_of, phases_of
from conf.schema import EarlyStoppingSpec, JobSpec, OptimizerSpec, PlateauSpec, ScheduleSpec
from storage import run_dir as names
from storage.run_dir import RunDir
from trainer import pretrained
from trainer.actions import rates_of
from trainer.rate_curve import Suggestion, Watch, smoothed, suggest
from trainer.session import Session
from trainer.step import compile_step


@dataclass(frozen=True)
class Tried:
    """The rates that were tried, and the loss before the step at each. `end`: why there are no more of them."""

    rates: list[float]
    losses: list[float]
    end: str


def rate_test(job: JobSpec) -> JobSpec:
    """The job whose training is the test: the chosen phase alone, its rates rising by equal factors."""
    asked, trainer = job.find_lr, job.trainer
    phase = phases_of(trainer)[asked.phase - 1]
    optimizer = optimizer_of(trainer, phase)
    share = asked.low / optimizer.learning_rate

    def lowered(spec: OptimizerSpec) -> OptimizerSpec:
        return replace(spec, learning_rate=spec.learning_rate * share)

    groups = [replace(group, optimizer=lowered(group.optimizer)) for group in groups_of(trainer, phase)]
    alone = replace(phase, epochs=None, steps=None, examples=None, learning_rate=None, optimizer=None, groups=None)
    rising = ScheduleSpec("exponential", every_steps=asked.steps - 1, factor=asked.high / asked.low)
    test = replace(
        trainer,
        optimizer=lowered(optimizer),
        groups=groups or None,
        schedule=rising,
        phases=[replace(alone, schedule=None)],
        fine_tuning=None,
        epochs=None,
        steps=asked.steps,
        early_stopping=EarlyStoppingSpec(),
        plateau=PlateauSpec(),
        ema_decay=None,
    )
    return replace(job, trainer=test, find_lr=replace(asked, phase=1))


def find_lr(session: Session, run: RunDir) -> int:
    """Try the rates and report. Returns an exit code: DONE, or STOPPED when it was asked to stop."""
    session.channel.say("progress", phase="building")
    pretrained.load(session.model, session.job.trainer.model, session.channel)
    tried = try_rates(session)
    if tried is None:
        return exit_codes.STOPPED
    if session.topology.is_chief:
        found = suggest(np.array(tried.rates), np.array(tried.losses))
        run.write_json(names.FIND_LR, report(session, tried, found))
        run.store.put(names.FIND_LR_PLOT, picture(session, tried, found))
    session.channel.say("result", step=len(tried.rates), metrics={})
    return exit_codes.DONE


def try_rates(session: Session) -> Tried | None:
    """Step after step at a higher rate, until the loss blows up; None when it was asked to stop.

    Every worker sees the same losses, so all end after the same step.
    """
    asked, channel = session.job.find_lr, session.channel
    run, batches = compile_step(session.step), session.training_batches(0)
    first = rates_of(session.phases.optimizer)["learning_rate"]
    watch = Watch()
    rates: list[float] = []
    losses: list[float] = []
    for step in range(asked.steps):
        # Where the loss scale skips a step, the schedule waits for it.
        rate = asked.low * rates_of(session.phases.optimizer)["learning_rate"] / first
        totals = run(batches, 1, channel.stop_requested).numpy()
        if totals[-1] > 0:
            return None
        loss = float(totals[0])
        if math.isfinite(loss):
            rates.append(rate)
            losses.append(loss)
        channel.say("progress", phase="trying rates", step=step + 1, steps=asked.steps, loss=loss)
        if watch.is_over(loss):
            return Tried(rates, losses, "the loss blew up")
    return Tried(rates, losses, "find_lr.high was reached")


def report(session: Session, tried: Tried, found: Suggestion) -> dict[str, Any]:
    """What report/find_lr.json says. `rates` are those before each of `losses`; not what blew up beyond numbers."""
    return {
        "suggestion": found.rate,
        "steepest": found.steepest,
        "tenth_of_least": found.tenth_of_least,
        "note": found.note,
        "end": tried.end,
        "rates": tried.rates,
        "losses": tried.losses,
        "smoothed": smoothed(np.array(tried.losses)).tolist(),
        "global_batch_size": session.shape.global_batch_size,
        "model": session.job.trainer.model.name,
        "data": session.manifest.name,
        "optimizer": session.job.trainer.optimizer.name,
        "seed": session.job.seed,
    }


def picture(session: Session, tried: Tried, found: Suggestion) -> bytes:
    """The curve as a PNG file."""
    plot = importlib.import_module("trainer.plot")  # Pillow's fonts are for nobody else: no training imports them
    trainer = session.job.trainer
    what = f"{trainer.model.name} on {session.manifest.name}, {trainer.optimizer.name}"
    places = {"steepest": found.steepest, "least / 10": found.tenth_of_least}
    drawn = plot.Plot(
        f"{what}, batch {session.shape.global_batch_size}: {tried.end}",
        "learning rate",
        "loss",
        np.array(tried.rates),
        np.array(tried.losses),
        smoothed(np.array(tried.losses)),
        [plot.Mark(place, label) for label, place in places.items() if place is not None],
    )
    return bytes(plot.draw(drawn))
