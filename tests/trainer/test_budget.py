"""The budget of corrupt examples: what counts, and when it is overdrawn."""

from dataclasses import replace

import pytest

from conf.schema import BadRecord, DataSpec, Oversample
from data_pipeline.manifest import ImageSizes, Manifest, Split
from data_pipeline.records import CorruptRecord
from trainer.budget import TrainingBudget, check
from trainer.loop import Progress, Window

AN_EPOCH = 10
DATA = DataSpec(on_corrupt=BadRecord.skip, max_corrupt=4)
MANIFEST = Manifest(
    url="somewhere",
    name="made-up",
    classes=["a", "b"],
    splits={"train": Split(50, [40, 10], [])},
    images=ImageSizes(8, 8, 8, 8, 1, 1),
    seed=0,
    digest="0",
)


def ends_at(calls: list[tuple[int, int]], data: DataSpec = DATA, draw_every: int = 7, begin: int = 0) -> int | None:
    """The step at which a training ends whose calls take so many steps and lose so many examples; None: never.

    It is stopped and resumed once, before call number `begin`.
    """
    progress, window = Progress(1000, AN_EPOCH), [0]
    budget = TrainingBudget(MANIFEST, data, lambda _: window[0], progress)
    for number, (steps, lost) in enumerate(calls):
        if number == begin:
            saved, progress = progress.saved(), Progress(1000, AN_EPOCH)
            progress.resume(saved)
            budget = TrainingBudget(MANIFEST, data, lambda _: window[0], progress)
        progress.step, progress.loop_steps = progress.step + steps, steps
        window[0] += lost
        try:
            budget(progress)
        except CorruptRecord:
            return progress.step
        if progress.step % draw_every == 0:  # as a point on the curves does
            progress.skipped, window[0], progress.window = progress.skipped + window[0], 0, Window()
    return None


@pytest.mark.parametrize("begin", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("calls", "step"),
    [
        ([(5, 2), (5, 2), (5, 2), (5, 2)], None),  # the same four in each epoch
        ([(5, 2), (5, 3), (5, 0)], 10),
        ([(5, 0), (5, 0), (5, 3), (2, 2)], 17),
        ([(4, 4), (4, 0), (4, 8), (4, 4), (4, 0)], None),  # of the third, four in each of two epochs
        ([(4, 4), (4, 0), (4, 9), (4, 4)], 12),  # more than four in one of the two
        ([(4, 4), (4, 0), (4, 0), (4, 4), (4, 1)], 20),
        ([(30, 12), (30, 12)], None),
        ([(30, 12), (30, 13)], 60),
    ],
)
def test_an_epoch_may_lose_so_many_wherever_calls_and_resumes_fall(calls: list, step: int | None, begin: int) -> None:
    assert ends_at(calls, begin=begin) == step


def test_what_comes_several_times_in_an_epoch_counts_once_at_least() -> None:
    """Four examples of the rare class in their four places each are four; one place more is a fifth."""
    data = replace(DATA, oversample=Oversample.balanced)
    assert ends_at([(10, 16), (10, 16)], data) is None
    assert ends_at([(10, 16), (10, 17)], data) == 20


def test_an_evaluation_may_lose_as_many_and_stopping_is_the_reader_s() -> None:
    check(MANIFEST, "test", DATA, 4)
    with pytest.raises(CorruptRecord, match=r"somewhere: 5 examples of test are corrupt, .* and data.max_corrupt=4 - "):
        check(MANIFEST, "test", DATA, 5)
    check(MANIFEST, "test", replace(DATA, on_corrupt=BadRecord.stop), 5)
