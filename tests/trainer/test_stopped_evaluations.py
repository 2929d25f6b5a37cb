"""A stop does not wait for an evaluation: it is broken off, and made by whoever goes on, with the same end."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.exit_codes import DONE, STOPPED
from conf.schema import DataSpec, EarlyStoppingSpec, JobSpec, ModelSpec, PlateauSpec, StorageSpec, TrainerSpec, Verb
from data_pipeline.prepare import prepare
from storage.run_dir import RunDir
from tests.curves import curve
from trainer.checkpoints import list_checkpoints, newest_whole
from trainer.evaluation import evaluator
from trainer.session import Session
from trainer.topology import Topology
from trainer.training import run_task

#: No evaluation is better by so much than the first one, at step 6: the rate falls, and step 24 is the end.
LAST = 24
Told = list[tuple[str, dict[str, Any]]]


def job(root: Path, run_id: str) -> JobSpec:
    trainer = TrainerSpec(
        model=ModelSpec(options={"filters": [4], "dense": 0, "batch_norm": True}, dropout=0.2),
        global_batch_size=4,
        eval_batch_size=4,
        steps=100,
        steps_per_loop=3,
        log_every_steps=4,
        eval_every_steps=6,
        checkpoint_every_steps=10,
        early_stopping=EarlyStoppingSpec("validation_loss", patience=3, min_delta=10.0),
        plateau=PlateauSpec("validation_loss", factor=0.5, patience=1, min_delta=10.0),
        ema_decay=0.9,
        export_at_end=False,
    )
    data = DataSpec(name="synthetic", num_examples=160, num_classes=2, image_size=8, out=str(root / "data"))
    return JobSpec(run_id=run_id, data=data, trainer=trainer, storage=StorageSpec(root=str(root / "runs")))


class Died(Exception):
    """What ends an attempt as a death would: nothing is saved any more."""


class Listener:
    """A channel that asks for a stop when it hears of a phase at a step, and so many batches of an evaluation."""

    def __init__(self, stop_at: tuple[str, int, int | None] | None = None, dies_at: int | None = None):
        self.dies_at = dies_at  # when it trains on from this step
        self.stop_requested, self.told, self._stop_at, self._step = False, Told(), stop_at, 0

    def say(self, kind: str, **fields: Any) -> None:
        """Keep it."""
        self.told.append((kind, fields))
        if fields.get("phase") == "training" or fields.get("event") == "restored":
            self._step = fields.get("step", fields.get("details", {}).get("step"))
        if fields.get("phase") == "training" and fields["step"] == self.dies_at:
            raise Died
        if kind == "progress" and (fields["phase"], self._step, fields.get("done")) == self._stop_at:
            self.stop_requested = True

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The details of the events of a kind."""
        return [fields["details"] for said, fields in self.told if said == "event" and fields["event"] == kind]

    @property
    def evaluated(self) -> list[int]:
        """The steps that the validation split was measured at."""
        return [event["step"] for event in self.events("evaluated") if event["split"] == "validation"]

    @property
    def trained(self) -> list[int]:
        """The steps that the training was at between two calls."""
        return [fields["step"] for said, fields in self.told if fields.get("phase") == "training"]


def run(
    asked: JobSpec, attempt: int, stop_at: tuple[str, int, int | None] | None = None, dies_at: int | None = None
) -> tuple[int, Listener]:
    """One attempt of a job in this process: its exit code, and what it told."""
    heard = Listener(stop_at, dies_at)
    session = Session(asked, Topology(1, 0, 1, 1, False), heard)
    return run_task(session, RunDir(asked.storage.root, str(asked.run_id)), attempt), heard


def curves(asked: JobSpec) -> dict[str, list[tuple[int, float]]]:
    """Every curve that does not depend on the clock."""
    found = {}
    for split in ("train", "validation"):
        folder = Path(f"{asked.storage.root}/{asked.run_id}/tensorboard/{split}")
        for tag in ("loss", "accuracy", "learning_rate", "epoch"):
            found[f"{split}/{tag}"] = curve(folder, tag)
    return found


def test_a_stop_leaves_an_evaluation_to_who_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "STEPS_PER_LOOP", 2)  # of about eight batches
    prepare(job(tmp_path, "prepare"))
    calm, stopped = job(tmp_path, "calm"), job(tmp_path, "stopped")
    code, told = run(calm, 1)
    assert (code, told.evaluated, told.events("stopped_early")[0]["step"]) == (DONE, [6, 12, 18, LAST], LAST)
    beats = [(fields["done"], fields.get("of")) for _, fields in told.told if fields.get("phase") == "evaluating"]
    assert [done for done, _ in beats].count(0) == 5, "of four evaluations and the report's"
    assert all(of == done for (done, of), (after, _) in itertools.pairwise(beats) if after == 0), "each told to its end"
    assert told.events("best_restored") == [{"step": 6}]
    reporting = told.told[[fields.get("event") for _, fields in told.told].index("best_restored") :]
    first = next(fields for kind, fields in reporting if kind == "progress")
    assert first == {"phase": "evaluating", "done": 0}, "said before anything of it can end the worker"

    code, before = run(stopped, 1, ("training", 4, None))
    assert (code, before.evaluated, before.trained) == (STOPPED, [], [3, 4, 6]), "wished for before it"
    code, again = run(stopped, 2, ("evaluating", 6, 2))
    assert (code, again.evaluated, again.trained) == (STOPPED, [], []), "broken off once more"
    with pytest.raises(Died):
        run(stopped, 2, dies_at=9)  # has made up for the evaluation, which its checkpoint does not know
    code, inside = run(stopped, 3, ("evaluating", 12, 2))
    assert (code, inside.evaluated, inside.trained[-1]) == (STOPPED, [6], 12)
    code, deciding = run(stopped, 4, ("evaluating", LAST, 4))
    assert (code, deciding.evaluated, deciding.trained[-1]) == (STOPPED, [12, 18], LAST)

    measured = run_task_of(stopped, Verb.evaluate)
    assert measured.events("best_restored") == [{"step": 6}], "it ended there, which nobody had found out yet"
    code, last = run(stopped, 5)
    assert (code, last.evaluated, last.trained) == (DONE, [LAST], [])
    for kind in ("stopped_early", "best_restored"):
        assert last.events(kind) == told.events(kind)
    assert [event for one in (inside, deciding, last) for event in one.events("plateau")] == told.events("plateau")
    expected, found = (newest_whole(RunDir(asked.storage.root, str(asked.run_id))) for asked in (calm, stopped))
    assert expected is not None and found is not None and found.step == expected.step == LAST
    assert [name for name in expected.tensors if not np.array_equal(found.tensors[name], expected.tensors[name])] == []
    assert curves(stopped) == curves(calm)
    assert [step for step, _ in curves(calm)["validation/loss"]] == [6, 12, 18, LAST]
    assert remembered(calm)[LAST] == measured_at(calm, LAST) != measured_at(calm, 18)
    assert remembered(stopped)[LAST] == remembered(calm)[LAST], "noted when it was made up for, for `keep_best`"
    assert remembered(stopped)[12] == measured_at(stopped, 12) != measured_at(stopped, 6)
    reports = [
        RunDir(asked.storage.root, str(asked.run_id)).read_json("report/metrics.json") for asked in (calm, stopped)
    ]
    assert reports[0] == reports[1]


def remembered(asked: JobSpec) -> dict[int, float]:
    """The loss by which each checkpoint would be kept as one of the best."""
    found = list_checkpoints(RunDir(asked.storage.root, str(asked.run_id)), verify=True)
    assert not [status for status in found if status.problem]
    return {status.step: np.float32(status.metrics["validation_loss"]) for status in found if status.metrics}


def measured_at(asked: JobSpec, step: int) -> float:
    """What the evaluation at a step gave."""
    return dict(curves(asked)["validation/loss"])[step]


def run_task_of(asked: JobSpec, verb: Verb) -> Listener:
    """Another verb on the same run."""
    asked.job = verb
    try:
        code, told = run(asked, 9)
    finally:
        asked.job = Verb.train
    assert code == DONE
    return told
