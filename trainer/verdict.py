"""What three speeds say of a job, and which knob may help. Pure: numbers and settings in, sentences out."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from conf.schema import Precision

#: From this share of the model's own speed on, the input is taken to keep up.
KEEPS_UP = 0.9
#: Of the host's memory that decoded images may fill by our advice.
MEMORY_SHARE = 0.25
#: A step shorter than this leaves a GPU waiting for the CPU that starts it.
SHORT_STEP_S = 0.02
#: Between two calls of the compiled loop Python takes about a millisecond; a call should be much longer.
SHORT_CALL_S = 0.03
#: Images with sides this much longer than the model's are better made smaller when they are prepared.
MUCH_LARGER = 1.75
#: Room for a random crop.
CROP_ROOM = 8 / 7


class Limit(Enum):
    """What limits a job."""

    input = "input-bound"
    shared = "input-bound, by sharing cores"
    compute = "compute-bound"


@dataclass(frozen=True)
class Speeds:
    """Examples a second, over the whole job."""

    reader: float
    model: float
    both: float


@dataclass(frozen=True)
class Setting:
    """What of the job and the machine the advice depends on."""

    on_gpu: bool
    precision: Precision
    global_batch_size: int
    steps_per_loop: int
    image_size: int
    largest_side: int  # of the stored images
    decoded_bytes: int  # of all training images at image_size
    kept_in_memory: bool  # they are decoded once, and gathered
    crops: bool  # each epoch decodes another part of the image
    host_bytes: int  # memory of the host
    stored_as_files: bool  # each image has to be decoded


@dataclass(frozen=True)
class Verdict:
    """What limits the job, why, and what to try: (key=value, what it does) each, the best first."""

    limit: Limit
    reason: str
    advice: tuple[tuple[str, str], ...]

    @property
    def input_bound(self) -> bool:
        """Whether the job would be faster with a faster input pipeline."""
        return self.limit is not Limit.compute


def judge(speeds: Speeds, setting: Setting) -> Verdict:
    """The verdict on these speeds."""
    limit = limit_of(speeds)
    advice = _for_compute(speeds, setting) if limit is Limit.compute else _for_input(setting)
    return Verdict(limit, _reason(limit, speeds), tuple(advice))


def limit_of(speeds: Speeds) -> Limit:
    """What limits the job: the model, when with real input it runs about as fast as without; else the input."""
    if speeds.both >= KEEPS_UP * speeds.model:
        return Limit.compute
    return Limit.input if speeds.reader * KEEPS_UP <= speeds.model else Limit.shared


def _reason(limit: Limit, speeds: Speeds) -> str:
    kept = f"with real input the model runs at {speeds.both / speeds.model:.0%} of its own speed"
    ratio = speeds.reader / speeds.model
    if limit is Limit.input:
        return f"{kept}: the reader alone gives {ratio:.2f} times what the model takes"
    if limit is Limit.shared:
        return f"{kept}: the reader alone would give {ratio:.2f} times what it takes, but both want the same cores"
    return f"{kept}; the reader alone gives {ratio:.2f} times what it takes"


def _for_input(setting: Setting) -> Iterator[tuple[str, str]]:
    if not setting.kept_in_memory:
        if not setting.crops and setting.decoded_bytes <= MEMORY_SHARE * setting.host_bytes:
            yield f"data.memory_bytes={setting.decoded_bytes}", "images are decoded once and kept in memory"
        if setting.largest_side > MUCH_LARGER * setting.image_size:
            side = round(CROP_ROOM * setting.image_size)
            why = f"prepares smaller images: those stored have up to {setting.largest_side} pixels a side"
            yield f"data.max_side={side}", f"{why}, the model sees {setting.image_size}"
        if setting.stored_as_files:
            yield "data.encoding=pixels", "prepares decoded images: several times the disk, no decoding while training"
    yield "cluster=...", "more workers on more hosts, or hosts with more cores: each worker reads with all of its host"


def _for_compute(speeds: Speeds, setting: Setting) -> Iterator[tuple[str, str]]:
    step_s = setting.global_batch_size / speeds.both
    if step_s * setting.steps_per_loop < SHORT_CALL_S:
        steps = max(2 * setting.steps_per_loop, round(2 * SHORT_CALL_S / step_s))
        why = (
            f"{setting.steps_per_loop} steps take {1000 * step_s * setting.steps_per_loop:.0f} ms, then Python looks up"
        )
        yield f"trainer.steps_per_loop={steps}", why
    if setting.on_gpu and setting.precision is Precision.float32:
        yield "trainer.precision=mixed_bfloat16", "arithmetic of half the width, for which GPUs have units of their own"
    if setting.on_gpu and step_s < SHORT_STEP_S:
        why = f"a step takes {1000 * step_s:.1f} ms, too short to fill a GPU; adapt the learning rate"
        yield f"trainer.global_batch_size={2 * setting.global_batch_size}", why
    yield "cluster=...", "more replicas share the batch; what is learnt stays the same"
