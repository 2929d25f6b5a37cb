"""What the three speeds of a job say, on given numbers."""

from dataclasses import replace

import pytest

from conf.schema import Precision
from trainer.verdict import Limit, Setting, Speeds, judge, limit_of

PHOTOS = Setting(
    on_gpu=True,
    precision=Precision.float32,
    global_batch_size=256,
    steps_per_loop=10,
    image_size=224,
    largest_side=500,
    decoded_bytes=40 << 30,
    kept_in_memory=False,
    crops=True,
    host_bytes=64 << 30,
    stored_as_files=False,
)
STARVED, SATED = Speeds(500, 2000, 490), Speeds(5000, 2000, 1950)


@pytest.mark.parametrize(
    ("reader", "model", "both", "limit"),
    [
        (10_000, 1000, 990, Limit.compute),  # nothing is lost
        (10_000, 1000, 1050, Limit.compute),  # noise
        (10_000, 1000, 901, Limit.compute),
        (500, 1000, 480, Limit.input),  # the reader alone is too slow
        (1050, 1000, 880, Limit.input),  # hardly faster: every hiccup is felt
        (3000, 1000, 750, Limit.shared),  # fast enough alone, not beside the model
        (950, 1000, 950, Limit.compute),  # slower by less than is worth anything
    ],
)
def test_what_limits_a_job(reader, model, both, limit):
    assert limit_of(Speeds(reader, model, both)) is limit
    assert judge(Speeds(reader, model, both), PHOTOS).input_bound is (limit is not Limit.compute)


def words(speeds: Speeds, setting: Setting) -> list[str]:
    return [word for word, _ in judge(speeds, setting).advice]


def test_advice_for_a_job_that_waits_for_its_input():
    assert words(STARVED, PHOTOS) == ["data.max_side=256", "cluster=..."]
    assert words(STARVED, replace(PHOTOS, largest_side=256)) == ["cluster=..."]
    # Without a random crop the decoded images can be kept, if they leave three quarters of the memory.
    fits = replace(PHOTOS, crops=False, decoded_bytes=16 << 30)
    assert words(STARVED, fits)[0] == f"data.memory_bytes={16 << 30}"
    assert words(STARVED, replace(fits, decoded_bytes=(16 << 30) + 1))[0] == "data.max_side=256"
    assert words(STARVED, replace(fits, kept_in_memory=True)) == ["cluster=..."]


def test_images_that_are_decoded_again_and_again_are_better_stored_decoded():
    files = replace(PHOTOS, stored_as_files=True)
    assert words(STARVED, files) == ["data.max_side=256", "data.encoding=pixels", "cluster=..."]
    assert words(STARVED, replace(files, crops=False, kept_in_memory=True)) == ["cluster=..."]
    assert "data.encoding=pixels" not in words(SATED, files)


def test_advice_for_a_job_that_waits_for_its_model():
    assert words(SATED, PHOTOS) == ["trainer.precision=mixed_bfloat16", "cluster=..."]
    assert words(SATED, replace(PHOTOS, precision=Precision.mixed_float16)) == ["cluster=..."]
    assert words(SATED, replace(PHOTOS, on_gpu=False)) == ["cluster=..."]
    # A step of 2 ms: ten of them are 20 ms; thirty would be 60.
    quick = Speeds(900_000, 130_000, 128_000)
    assert words(quick, PHOTOS) == [
        "trainer.steps_per_loop=30",
        "trainer.precision=mixed_bfloat16",
        "trainer.global_batch_size=512",
        "cluster=...",
    ]
    assert words(quick, replace(PHOTOS, on_gpu=False)) == ["trainer.steps_per_loop=30", "cluster=..."]
    assert words(quick, replace(PHOTOS, on_gpu=False, steps_per_loop=30)) == ["cluster=..."]


def test_the_reason_tells_the_numbers():
    assert "at 24% of its own speed" in judge(STARVED, PHOTOS).reason
    assert "the reader alone gives 0.25 times" in judge(STARVED, PHOTOS).reason
    assert "both want the same cores" in judge(Speeds(3000, 1000, 750), PHOTOS).reason
    assert "the reader alone gives 2.50 times what it takes" in judge(SATED, PHOTOS).reason
