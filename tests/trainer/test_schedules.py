"""Learning rates against their formulas, written out in NumPy."""

from collections.abc import Callable

import numpy as np
import pytest

from conf.schema import OptimizerSpec, ScheduleSpec, TrainerSpec
from trainer.schedules import learning_rate, peak_rate

PEAK, STEPS, WARMUP = 0.4, 100, 10


def cosine(share: float) -> float:
    return 0.5 * (1 + np.cos(np.pi * share))


def one_cycle(step: int) -> float:
    if step < 30:
        return 1 + (1 / 25 - 1) * cosine(step / 30)
    return 1e-4 / 25 + (1 - 1e-4 / 25) * cosine((step - 30) / 70)


FORMULAS: dict[str, Callable[[int], float]] = {
    "constant": lambda step: 1.0,
    "cosine": lambda step: 0.1 + 0.9 * cosine(step / STEPS),
    "cosine_restarts": lambda step: 0.1 + 0.9 * cosine(1.0 if step == STEPS else step % 20 / 20),
    "step": lambda step: 0.5 ** (step // 20),
    "exponential": lambda step: 0.5 ** (step / 20),
    "polynomial": lambda step: 0.1 + 0.9 * (1 - step / STEPS) ** 2,
    "one_cycle": one_cycle,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_schedules_equal_their_formulas_behind_a_warmup(name):
    spec = ScheduleSpec(name, WARMUP, end_factor=0.1, every_steps=20, factor=0.5, power=2.0, cycles=5)
    rate = learning_rate(TrainerSpec(optimizer=OptimizerSpec(learning_rate=PEAK), schedule=spec), WARMUP + STEPS)
    for step in (0, 3, 9, 10, 15, 29, 35, 39, 40, 59, 60, 77, 85, 109, 110):
        expected = PEAK * (step / WARMUP if step < WARMUP else FORMULAS[name](step - WARMUP))
        assert float(rate(step)) == pytest.approx(expected, rel=2e-5, abs=1e-8), step


@pytest.mark.parametrize("name", sorted(set(FORMULAS) - {"constant"}))
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
