"""Learning rates against their formulas, written out in NumPy (rates.py). What they do to weights: test_step.py."""

import pytest

from conf.schema import OptimizerSpec, ScheduleSpec, TrainerSpec
from tests.trainer.rates import share_of_peak
from trainer.schedules import learning_rate, peak_rate

PEAK, STEPS, WARMUP = 0.4, 100, 10


NAMES = ("constant", "cosine", "cosine_restarts", "step", "exponential", "polynomial", "one_cycle")


@pytest.mark.parametrize("name", NAMES)
def test_schedules_equal_their_formulas_behind_a_warmup(name):
    spec = ScheduleSpec(name, WARMUP, end_factor=0.1, every_steps=20, factor=0.5, power=2.0, cycles=5)
    rate = learning_rate(TrainerSpec(optimizer=OptimizerSpec(learning_rate=PEAK), schedule=spec), WARMUP + STEPS)
    for step in (0, 3, 9, 10, 15, 29, 35, 39, 40, 59, 60, 77, 85, 109, 110):
        expected = PEAK * share_of_peak(spec, step, WARMUP + STEPS)
        assert float(rate(step)) == pytest.approx(expected, rel=2e-5, abs=1e-8), step


@pytest.mark.parametrize("name", NAMES[1:])
def test_schedules_move_without_a_warmup(name):
    trainer = TrainerSpec(optimizer=OptimizerSpec(learning_rate=PEAK), schedule=ScheduleSpec(name))
    rate = learning_rate(trainer, STEPS)
    assert max(float(rate(step)) for step in range(STEPS)) == pytest.approx(PEAK)
    assert float(rate(STEPS)) < 0.2 * PEAK


def test_the_rate_grows_with_the_batch_on_request():
    optimizer = OptimizerSpec(learning_rate=0.1)
    assert peak_rate(TrainerSpec(optimizer=optimizer, global_batch_size=1024)) == 0.1
    optimizer.reference_batch_size = 256
    assert peak_rate(TrainerSpec(optimizer=optimizer, global_batch_size=1024)) == pytest.approx(0.4)
