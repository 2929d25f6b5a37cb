"""What a learning-rate range test suggests, on curves of which the answer is known."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from trainer.plot import Mark, Plot, draw
from trainer.rate_curve import Suggestion, Watch, smoothed, suggest

RATES = np.logspace(-6, 1, 141)


def curve(falls_at: float, blows_at: float, noise: float = 0.0) -> np.ndarray:
    """A loss of 2.3 that falls to 0.3, steepest at one rate, and is lost at another."""
    place = np.log10(RATES)
    falling = 2.3 - 2.0 / (1 + np.exp(-3 * (place - math.log10(falls_at))))
    lost = np.exp(6 * (place - math.log10(blows_at)))
    return falling + lost + noise * np.random.default_rng(0).standard_normal(len(RATES))


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("falls_at", [1e-4, 1e-2])
def test_the_two_rules_find_the_steepest_fall_and_a_tenth_of_the_least_loss(falls_at, noise):
    losses = curve(falls_at, 1e3 * falls_at, noise)
    found = suggest(RATES, losses)
    assert found.steepest == pytest.approx(falls_at, rel=0.6)  # a quarter of a decade
    assert found.tenth_of_least == pytest.approx(RATES[np.argmin(curve(falls_at, 1e3 * falls_at))] / 10, rel=0.6)
    assert found.rate == min(found.steepest, found.tenth_of_least)


def test_the_more_careful_rule_is_taken():
    assert Suggestion(0.3, 0.1).rate == 0.1 and Suggestion(0.01, 0.1).rate == 0.01


def test_what_a_range_does_not_show_is_said():
    assert suggest(RATES, np.full(141, 2.3)).rate is None
    rising = suggest(RATES, np.linspace(2.3, 9.0, 141))
    assert rising.rate is None and "did not fall" in rising.note
    assert "higher find_lr.high" in suggest(RATES, np.linspace(2.3, 0.3, 141)).note
    assert "lower find_lr.low" in suggest(RATES, 0.3 + 2 * np.exp(-np.arange(141.0))).note
    assert "no number at once" in suggest(RATES[:0], RATES[:0]).note


def test_smoothing_does_not_lag_behind_and_ignores_the_explosion():
    step = np.where(np.arange(100) < 50, 2.0, 1.0)
    assert abs(int(np.argmax(-np.diff(smoothed(step)))) - 49) <= 1
    exploded = np.where(np.arange(100) < 99, step, 1e30)
    assert smoothed(exploded).max() < 10


def test_a_loss_that_blows_up_ends_the_test_and_noise_does_not():
    watch = Watch()
    assert not any(watch.is_over(loss) for loss in curve(1e-3, 1e3, noise=0.3)[:120])
    assert watch.is_over(math.nan) and watch.is_over(math.inf)
    watch = Watch()
    assert not any(watch.is_over(loss) for loss in [1.0] * 30 + [8.0, 1.0]), "one batch alone ended it"
    watch = Watch()
    grown = [watch.is_over(1.0 * 1.5**step) for step in range(20)]
    assert grown[-1] and not any(grown[:4])


def test_the_plot_is_a_png_whose_marks_stand_where_they_should():
    losses = curve(1e-3, 1.0)
    picture = Image.open(io.BytesIO(draw(Plot("t", "x", "y", RATES, losses, losses, [Mark(1e-3, "here")]))))
    assert picture.size == (960, 560)
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    reddish = (pixels[..., 0] - pixels[..., 2] > 80).sum(axis=0)
    assert abs(int(np.argmax(reddish)) - (76 + 3 / 7 * (960 - 76 - 24))) <= 2 and reddish.max() > 300
