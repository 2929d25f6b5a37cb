"""When things happen: the same steps for a run that is resumed anywhere."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from trainer.loop import Every, Progress, Window, run_loop, steps_until_next


def run(progress: Progress, actions, steps_per_loop: int = 4, stop_at: int | None = None) -> list[int]:
    """Run with a step that adds up the numbers of its batches; the calls' lengths."""
    calls = []
    batches = itertools.count(progress.step)

    def steps(batches, num_steps: int, stop: bool) -> tf.Tensor:
        total = sum(next(batches) for _ in range(num_steps))
        calls.append(num_steps)
        return tf.constant([total, num_steps, 2.0 * num_steps, float(stop)], tf.float64)

    wants = lambda: stop_at is not None and progress.step >= stop_at  # noqa: E731
    run_loop(steps, batches, progress, steps_per_loop, actions, wants, lambda _: None)
    return calls


def test_the_loop_wakes_at_every_actions_steps_and_at_the_end():
    seen = []
    actions = [
        Every(6, lambda p: seen.append(("save", p.step)), at_end=True),
        Every(5, lambda p: seen.append(("log", p.step))),
    ]
    calls = run(Progress(steps=13, steps_per_epoch=100), actions)
    assert sum(calls) == 13 and max(calls) <= 4
    assert seen == [("log", 5), ("save", 6), ("log", 10), ("save", 12), ("save", 13)]


@pytest.mark.parametrize("stopped_after", range(1, 20))
def test_points_are_the_same_wherever_a_run_was_interrupted(stopped_after):
    def points_of(progress: Progress, points: dict[int, float], **stop) -> None:
        def log(at: Progress) -> None:
            points[at.step] = at.window.mean_loss
            at.window = Window()

        run(progress, [Every(5, log, at_end=True)], **stop)

    whole: dict[int, float] = {}
    points_of(Progress(steps=23, steps_per_epoch=7), whole)
    parts: dict[int, float] = {}
    first = Progress(steps=23, steps_per_epoch=7)
    points_of(first, parts, stop_at=stopped_after)
    assert first.stopping
    second = Progress(steps=23, steps_per_epoch=7)
    second.resume(first.saved())
    points_of(second, parts)
    assert parts == whole and whole[5] == np.mean(range(5))


@pytest.mark.parametrize("left_out", [{1}, {5}, {6, 7}, {8}, {13}, {4, 5, 12, 13}])
def test_steps_that_are_left_out_pass_by_without_being_counted(left_out):
    points, saved = {}, []

    def log(at: Progress) -> None:
        points[at.step] = (at.window.loss, at.window.steps, at.window.left_out)
        at.window = Window()

    progress = Progress(steps=13, steps_per_epoch=100, left_out=frozenset(left_out))
    calls = run(progress, [Every(5, log, at_end=True), Every(4, lambda at: saved.append(at.step), at_end=True)])
    assert progress.step == 13 and sum(calls) == 13 - len(left_out) and saved == [4, 8, 12, 13]
    for first, last in ((0, 5), (5, 10), (10, 13)):
        trained = [step for step in range(first, last) if step + 1 not in left_out]
        assert points[last] == (sum(trained), len(trained), last - first - len(trained))
    again = Progress(steps=13, steps_per_epoch=100)
    again.resume(progress.saved())
    assert again.left_out == left_out


def test_a_stop_is_seen_after_the_call_at_hand():
    progress = Progress(steps=100, steps_per_epoch=10)
    run(progress, [], stop_at=8)
    assert progress.stopping and progress.step == 12


def test_the_next_stop_is_the_nearest_multiple():
    progress = Progress(steps=50, steps_per_epoch=10, step=7)
    assert steps_until_next(progress, 10, [4, 9]) == 1
    assert steps_until_next(progress, 10, []) == 3
