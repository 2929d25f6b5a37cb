"""Which checkpoints stay."""

import pytest

from conf.schema import TrainerSpec
from storage.run_dir import RunDir, checkpoint_step
from trainer.checkpoint_files import remove
from trainer.checkpoint_writer import CheckpointWriter
from trainer.checkpoints import list_checkpoints, prune, save
from trainer.retention import Retention

ACCURACIES = {10: 0.5, 20: 0.9, 30: 0.7, 40: 0.9, 50: 0.6}


def metrics(name: str = "validation_accuracy") -> dict[int, dict[str, float]]:
    return {step: {name: value} for step, value in ACCURACIES.items()}


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (Retention(2), {40, 50}),
        (Retention(0), {50}),
        (Retention(1, best=1), {20, 50}),
        (Retention(1, best=2), {20, 40, 50}),
        (Retention(1, best=9), {10, 20, 30, 40, 50}),
        (Retention(1, every_steps=20), {20, 40, 50}),
        (Retention(1, best=1, every_steps=30), {20, 30, 50}),
        (Retention(1, best=3, metric="validation_loss"), {50}),
        (Retention(1, needed=frozenset([30, 35])), {30, 50}),
    ],
)
def test_the_newest_the_best_and_the_milestones_stay(keep, kept):
    assert keep.kept(metrics()) == kept


def test_an_evaluation_counts_once_however_many_checkpoints_remember_it():
    """Evaluations at 20, 50 and 80: what lies between them was never measured itself."""
    remembered = {20: 0.9, 30: 0.9, 40: 0.9, 50: 0.7, 60: 0.7, 80: 0.8, 90: 0.8, 100: 0.6}
    told = {step: {"validation_accuracy": accuracy, "validation_loss": 1.0} for step, accuracy in remembered.items()}
    assert Retention(1, best=2).kept(told) == {20, 80, 100}
    told.pop(20)  # broken, say: the next one was nearest to it
    assert Retention(1, best=2).kept(told) == {30, 80, 100}
    told[40] = told[40] | {"validation_loss": 0.9}  # another evaluation that was as good
    assert Retention(1, best=2).kept(told) == {30, 40, 100}


@pytest.mark.parametrize("place", [10, 20, 30, 40, 50])
def test_what_is_no_number_is_never_the_best(place):
    """An evaluation that gave NaN, wherever it comes; an infinite loss is only the worst."""
    told = {step: {"validation_loss": 1.0 - accuracy} for step, accuracy in ACCURACIES.items()}
    told[place] = {"validation_loss": float("nan")}
    keep = Retention(1, best=2, metric="validation_loss")
    best = sorted((value["validation_loss"], step) for step, value in told.items() if step != place)[:2]
    assert keep.kept(told) == {step for _, step in best} | {50}
    told[place] = {"validation_loss": float("inf")}
    assert keep.kept(told) == {step for _, step in best} | {50}


def test_of_a_loss_less_is_better():
    trainer = TrainerSpec(keep_checkpoints=1, keep_best=2, best_metric="validation_loss", keep_every_steps=40)
    assert Retention.of(trainer) == Retention(1, best=2, metric="validation_loss", every_steps=40)
    assert Retention.of(trainer).kept(metrics("validation_loss")) == {10, 40, 50}


def test_checkpoints_remember_their_metrics_and_the_best_survive(tmp_path):
    run = RunDir(str(tmp_path), "run")
    for step, accuracy in ACCURACIES.items():
        save(run, step, {}, {}, 1, {"validation_accuracy": accuracy})
    assert {status.step: status.metrics["validation_accuracy"] for status in list_checkpoints(run)} == ACCURACIES
    assert prune(run, Retention(1, best=1)) == [10, 30, 40]
    assert [status.step for status in list_checkpoints(run)] == [20, 50]


def test_a_broken_one_is_not_taken_for_the_best(tmp_path):
    run = RunDir(str(tmp_path), "run")
    for step, accuracy in ACCURACIES.items():
        save(run, step, {}, {}, 1, {"validation_accuracy": accuracy})
    next((tmp_path / "run" / "checkpoints" / "step_00000020").glob("*state.json")).unlink()
    prune(run, Retention(1, best=1))
    assert [status.step for status in list_checkpoints(run)] == [40, 50]


def test_a_save_reads_no_manifest_that_its_writer_has_seen(tmp_path, monkeypatch):
    """Else each save would read those of all checkpoints that stay for ever."""
    run, read = RunDir(str(tmp_path), "run"), []
    save(run, 1, {}, {}, 1, {"validation_accuracy": 0.4})
    real = run.store.get

    def counted(name: str) -> bytes:
        read.append(checkpoint_step(name))
        return real(name)

    monkeypatch.setattr(run.store, "get", counted)
    writer = CheckpointWriter(run, 1, Retention(1, best=2))
    for step, accuracy in ACCURACIES.items():
        if step == 50:  # meanwhile another process has put another one in the place of the second best
            remove(run, 40)
            save(run, 40, {}, {}, 2, {"validation_accuracy": 0.1})
        writer.submit(step, {}, {}, {"validation_accuracy": accuracy})
        writer.wait()
    writer.close()
    assert read == [1, 10, 20, 30, 40, 40, 50], "each once, and once more where it is another"
    assert [status.step for status in list_checkpoints(run)] == [20, 50]
