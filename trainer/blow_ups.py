"""What becomes of a training that blew up: it stops, or it goes back to its last checkpoint and leaves the batch out.

Every worker has seen the same loss and the same norm, so all decide the same. What they decided is in the run
directory (report/blow_ups.json) before any of them ends. To go back is to start again: the next attempt restores the
newest checkpoint, which was saved before, and passes over the batches that the report lists as left out. Such a step
counts as a step of the training and of its epoch; weights, optimizer, schedule and averages do not move in it.
"""

import math
from dataclasses import asdict
from typing import Any

from conf.schema import OnBlowUp
from data_pipeline.batch_names import NamedBatch, name_batch
from storage import run_dir as names
from storage.run_dir import RunDir
from storage.store import NotStored
from trainer.blown import Blown
from trainer.session import Session

#: Examples that are named in a sentence; the report has all.
NAMED = 3


class BlowUp(Exception):
    """A step's loss or gradient is not finite, or its loss explodes. `step` is counted from 1."""

    def __init__(self, step: int, blown: Blown):
        super().__init__(blown.words)
        self.step, self.blown = step, blown


class RolledBack(Exception):
    """All workers end, and start again from the last checkpoint without a batch."""


class GaveUp(Exception):
    """All workers end, and starting again would end here too."""


def left_out(run: RunDir) -> frozenset[int]:
    """The steps, counted from 1, that a training of this run passes over."""
    return frozenset(int(entry["step"]) for entry in _entries(run) if entry["left_out"])


def settle(session: Session, run: RunDir, found: BlowUp, before: frozenset[int]) -> Exception:
    """Write down what blew up and what becomes of it; what to raise. `before` is what was left out until now.

    By the chief, when its last checkpoint is saved; the other workers have to meet it afterwards, before they end.
    """
    trainer = session.job.trainer
    goes_on = trainer.on_blow_up is OnBlowUp.skip and len(before) < trainer.max_blow_ups
    batch = name_batch(session.manifest, session.job.data, session.job.seed, trainer.global_batch_size, found.step - 1)
    said = sentence(found, batch)
    if session.topology.is_chief:
        entries = [entry for entry in _entries(run) if entry["step"] != found.step]
        run.write_json(names.BLOW_UPS, [*entries, entry_of(found, batch, goes_on)])
        details = {"step": found.step, "epoch": batch.epoch, "what": found.blown.words, "left_out": goes_on}
        session.channel.say("event", event="blow_up", details=details)
    if goes_on:
        return RolledBack(f"{said} - back to the last checkpoint, and on without this batch")
    if trainer.on_blow_up is OnBlowUp.skip:
        law = f"trainer.max_blow_ups={trainer.max_blow_ups} batches were left out already"
        return GaveUp(f"{said} - {law} - a lower learning rate, clip_norm, or a larger trainer.max_blow_ups")
    cure = "trainer.on_blow_up=skip goes on without such batches; a lower learning rate or clip_norm may avoid them"
    return GaveUp(f"{said} - {cure}")


def sentence(found: BlowUp, batch: NamedBatch) -> str:
    """What happened where, with the first few examples."""
    first, last = batch.examples[0], batch.examples[-1]
    some = [example.key or f"{example.shard}:{example.record}" for example in batch.examples[:NAMED]]
    more = len(batch.examples) - len(some)
    of = ", ".join(some) + (f" and {more} more" if more > 0 else "")
    where = f"epoch {batch.epoch}, places {first.place} to {last.place}: {of}; {names.BLOW_UPS} names them"
    return f"blow-up in step {found.step}: {found.blown.words} ({where})"


def entry_of(found: BlowUp, batch: NamedBatch, is_left_out: bool) -> dict[str, Any]:
    """What the report says of one blow-up. A number that is not finite is a word, for JSON has none."""
    entry = {
        "step": found.step,
        "epoch": batch.epoch,
        "loss": _number(found.blown.loss),
        "gradient_norm": _number(found.blown.norm),
        "left_out": is_left_out,
        "examples": [asdict(example) for example in batch.examples],
    }
    return entry | ({"usual_loss": _number(found.blown.usual)} if found.blown.usual else {})


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _entries(run: RunDir) -> list[dict[str, Any]]:
    try:
        return list(run.read_json(names.BLOW_UPS))
    except NotStored:
        return []
