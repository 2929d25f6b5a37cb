"""A run that exists already: what it was asked first against what is asked now."""

import dataclasses
from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from typing import Any

from conf.errors import BadSpec, Problem
from conf.files import dump_job, load_job
from conf.schema import JobSpec, Verb
from launcher.compose import Asked
from launcher.lease import LEASE
from storage.run_dir import BLOW_UPS, CHECKPOINTS, JOB, OUTCOME, SWEEP, RunDir, checkpoint_step
from storage.store import NotStored, StoreAway, StoreError

#: What decides the learning. It is frozen when the run begins.
FROZEN = ("data", "trainer", "seed")
#: What is only looked at, whatever the run began with.
LOOKS = ("trainer.tensorboard", "trainer.profile")
#: The object of a checkpoint that is written last.
WHOLE = "/manifest.json"
#: Where and how it runs. It may change from one attempt to the next.
FREE = ("cluster", "submit")
#: Keys of the frozen parts that may change too: they say what to do about a failure.
POLICIES = (
    "trainer.on_blow_up",
    "trainer.max_blow_ups",
    "trainer.blow_up_factor",
    "data.on_corrupt",
    "data.max_corrupt",
    "trainer.micro_batch",  # where memory ran out: the update stays what it is
    "trainer.accumulation_steps",
    "trainer.rematerialize",
    "trainer.eval_batch_size",  # the same: each example counts once
)


def reconcile(saved: JobSpec, asked: Asked) -> JobSpec:
    """The job to go on with: the saved learning, and the cluster asked for now. Refuses another learning."""
    job = amended(saved, asked)
    _refuse_another(saved, job)
    return job


def amended(saved: JobSpec, asked: Asked) -> JobSpec:
    """The saved job with what was typed: a group that was chosen is taken whole, of the others the typed keys alone."""
    typed = asked.typed | (frozenset(FROZEN) if "experiment" in asked.typed else frozenset())
    kept = {part: _overlaid(part, getattr(saved, part), getattr(asked.job, part), typed) for part in FROZEN}
    kept |= {part: getattr(saved, part) for part in FREE if part not in asked.touched}
    return dataclasses.replace(asked.job, **kept)


def open_run(asked: Asked, run_id: str) -> tuple[RunDir, JobSpec]:
    """The run directory and the job to run in it. A new run is not written yet; see `freeze`."""
    job = dataclasses.replace(asked.job, run_id=run_id)
    try:
        run_dir = RunDir(job.storage.root, run_id)
        text = run_dir.store.get(JOB)
    except NotStored:
        _refuse_sweep(run_dir)
        return run_dir, job
    except StoreAway:
        raise  # the same words may do later
    except StoreError as error:
        cure = "choose another with storage.root=..., or mend what is there"
        raise BadSpec.of("storage.root", job.storage.root, f"cannot be read ({error})", cure) from error
    if not job.resume:
        law, cure = "this run exists already, and resume=false asks not to touch it", "another run_id, or resume=true"
        raise BadSpec.of("run_id", run_id, law, cure)
    saved = load_job(text, f"{run_dir.url}/{JOB}")
    carry_on = reconcile if has_checkpoint(run_dir) else amended
    return run_dir, carry_on(saved, dataclasses.replace(asked, job=job))


def existing_run(asked: Asked) -> tuple[RunDir, JobSpec]:
    """The same, for verbs that work on a run which must be there."""
    run_dir, job = open_run(asked, str(asked.job.run_id))
    if not run_dir.exists():
        law = f"there is no such run in {asked.job.storage.root}"
        raise BadSpec.of("run_id", job.run_id, law, "check the name; storage.root says where runs are")
    return run_dir, job


def _refuse_sweep(run_dir: RunDir) -> None:
    """A sweep's folder has no job of its own, and is nobody else's."""
    if run_dir.store.exists(SWEEP):
        law, cure = "this is a sweep, whose trials are runs of their own", f"job=status run_id={run_dir.run_id}"
        raise BadSpec.of("run_id", run_dir.run_id, law, f"{cure} lists them")


def check_writable(run_dir: RunDir, job: JobSpec) -> None:
    """Refuse a storage root that nothing can be written to, before anything is started."""
    try:
        run_dir.store.check_writable()
    except StoreAway:
        raise
    except StoreError as error:
        cure = "choose another with storage.root=..., or mend its permissions"
        raise BadSpec.of("storage.root", job.storage.root, f"cannot be written to ({error})", cure) from error


def freeze(run_dir: RunDir, job: JobSpec) -> None:
    """Write job.yaml. Once there is a checkpoint it stays: whoever comes later must have asked for the same."""
    if run_dir.store.put_if_absent(JOB, dump_job(job).encode()):
        return
    saved = load_job(run_dir.store.get(JOB), f"{run_dir.url}/{JOB}")
    if has_checkpoint(run_dir):
        _refuse_another(saved, job)
    elif any(getattr(saved, part) != getattr(job, part) for part in FROZEN):
        if any(_all_differences(saved, job)):
            run_dir.store.delete(BLOW_UPS)  # what blew up in another training says nothing of this one
        run_dir.store.put(JOB, dump_job(job).encode())


def has_checkpoint(run_dir: RunDir) -> bool:
    """Whether the run has learnt anything yet. Until it has, its job may still be mended."""
    return any(True for _ in run_dir.store.list(f"{CHECKPOINTS}/"))


def beginning(run_dir: RunDir) -> str:
    """Whether a training begins here or goes on, and from where."""
    if not run_dir.exists():
        return f"a new run {run_dir.run_id} begins in {run_dir.url}"
    step = newest_step(run_dir)
    where = "the beginning, for it has no checkpoint yet" if step is None else f"step {step}"
    return f"going on with {run_dir.run_id} from {where} in {run_dir.url}"


def newest_step(run_dir: RunDir) -> int | None:
    """The step of the newest checkpoint, as far as names tell; None while there is none."""
    whole = (stored.name for stored in run_dir.store.list(f"{CHECKPOINTS}/") if stored.name.endswith(WHOLE))
    return max((checkpoint_step(name) or 0 for name in whole), default=None)


def refuse_untrained(run_dir: RunDir) -> None:
    """Raise BadSpec where a run has no checkpoint: what its model knows now is nothing to measure or to export."""
    if newest_step(run_dir) is None:
        law = "this run has no checkpoint yet, so there are no trained weights"
        raise BadSpec.of("run_id", run_dir.run_id, law, f"train it first: run_id={run_dir.run_id}")


def is_new(run_dir: RunDir) -> bool:
    """Whether there is nothing yet, but for who drives it: then what is begun here and comes to nothing may go."""
    return not run_dir.exists() and all(stored.name.startswith(LEASE) for stored in run_dir.store.list())


def outcome(run_dir: RunDir) -> dict[str, Any]:
    """What outcome.json says; empty while there is none."""
    try:
        found = run_dir.read_json(OUTCOME)
    except NotStored:
        return {}
    if not isinstance(found, dict) or not isinstance(found.get("step") or 0, int):
        raise StoreError(f"{run_dir.url}/{OUTCOME}: not an outcome - restore the file or remove it")
    return found


def _overlaid(name: str, saved: Any, asked: Any, typed: frozenset[str]) -> Any:
    """`saved`, with what lies at the typed keys taken from `asked`."""
    if name in typed:
        return asked
    if not _speak_of(name, typed):
        return saved
    if dataclasses.is_dataclass(saved) and not isinstance(saved, type):
        fields = [field.name for field in dataclasses.fields(saved)]
        below = {key: (getattr(saved, key), getattr(asked, key)) for key in fields}
        return dataclasses.replace(
            saved, **{key: _overlaid(f"{name}.{key}", *pair, typed) for key, pair in below.items()}
        )
    if isinstance(saved, dict) and isinstance(asked, dict):
        spoken = {key: value for key, value in asked.items() if _speak_of(f"{name}.{key}", typed)}
        return saved | {key: _overlaid(f"{name}.{key}", saved.get(key), value, typed) for key, value in spoken.items()}
    return asked


def _speak_of(name: str, typed: frozenset[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for key in typed)


def _refuse_another(saved: JobSpec, job: JobSpec) -> None:
    problems = list(_all_differences(saved, job))
    if problems:
        raise BadSpec(problems)


def _all_differences(saved: JobSpec, job: JobSpec) -> Iterator[Problem]:
    for part in FROZEN:
        yield from _differences(part, getattr(saved, part), getattr(job, part), saved.run_id)


def _differences(name: str, saved: Any, asked: Any, run_id: str | None) -> Iterator[Problem]:
    if name in LOOKS:
        return
    if dataclasses.is_dataclass(saved) and type(saved) is type(asked):
        for key in (field.name for field in dataclasses.fields(saved)):
            yield from _differences(f"{name}.{key}", getattr(saved, key), getattr(asked, key), run_id)
    elif saved != asked and name not in POLICIES:
        law = f"run {run_id} was begun with {_word(saved)}, and a run keeps its data, trainer and seed"
        yield Problem(name, asked, law, "another run_id for another job, or leave it out to go on")


def _word(value: Any) -> str:
    return "null" if value is None else value.name if isinstance(value, Enum) else str(value)


def new_run_id(job: JobSpec) -> str:
    """A name for a run that was given none: <trainer>-<data>-<date>-<time>."""
    verb = "" if job.job is Verb.train else f"{job.job.name}-"
    return f"{verb}{job.trainer.name}-{job.data.name}-{datetime.now():%Y%m%d-%H%M%S}"
