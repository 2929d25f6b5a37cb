"""What dry_run=true shows: the job in numbers. Starts nothing, writes nothing."""

import json
from collections.abc import Iterator
from typing import Any

from conf import promises
from conf.data_url import data_url
from conf.epoch import places_in_epoch
from conf.micro_batch import AUTO, accumulation_steps
from conf.phases import described, is_plain, phase_steps, phases_of
from conf.schema import JobSpec, Remainder
from conf.stages import replicas
from launcher.console import Console
from launcher.fitting import Fitting
from launcher.gate import planned_placement
from launcher.placement import Placement
from storage.data_dir import MANIFEST
from storage.run_dir import RunDir
from storage.store import NotStored, open_store


def plan(job: JobSpec, run_dir: RunDir) -> str:
    """The plan as lines of name and value; the last says what this machine lacks, for a plan may be of another."""
    placement, refusal = planned_placement(job.cluster)
    rows = [("job", job.job.name), ("run directory", f"{run_dir.url}{' (exists)' if run_dir.exists() else ''}")]
    rows += [*_data(job), *_batches(job, run_dir, placement), *_cluster(job, placement)]
    if refusal is not None:
        rows += [("not on this machine", str(problem)) for problem in refusal.problems]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def read_manifest(url: str) -> dict[str, Any] | None:
    """The manifest of prepared data as plain JSON; None if there is none yet."""
    try:
        return dict(json.loads(open_store(url).get(MANIFEST)))
    except NotStored:
        return None


def steps_per_epoch(num_examples: int, global_batch_size: int, remainder: Remainder) -> int:
    """Optimizer steps in which an epoch's examples are seen."""
    whole, rest = divmod(num_examples, global_batch_size)
    return whole + (1 if rest and remainder is Remainder.pad else 0)


def _data(job: JobSpec) -> Iterator[tuple[str, str]]:
    url = data_url(job)
    manifest = read_manifest(url)
    yield "data", f"{job.data.name}{f' from {job.data.path}' if job.data.path else ''}"
    if manifest is None:
        yield "prepared", f"not yet; will be written to {url}"
        return
    splits = {name: split["num_examples"] for name, split in manifest["splits"].items()}
    shards = {name: len(split["shards"]) for name, split in manifest["splits"].items()}
    yield "prepared", url
    yield "examples", ", ".join(f"{name} {count} in {shards[name]} shards" for name, count in splits.items())
    counts = manifest["splits"].get("train", {}).get("class_counts", [])
    places = places_in_epoch(splits.get("train", 0), counts, job.data.oversample)
    steps = steps_per_epoch(places, job.trainer.global_batch_size, job.data.remainder)
    yield "steps an epoch", str(steps)
    if steps == 0:
        return
    lengths = phase_steps(job.trainer, steps)
    yield "steps in all", str(sum(lengths))
    if len(lengths) > 1:
        yield "steps a phase", ", ".join(map(str, lengths))


def _batches(job: JobSpec, run_dir: RunDir, placement: Placement | None) -> Iterator[tuple[str, str]]:
    trainer = job.trainer
    yield "model", f"{trainer.model.name}, {trainer.precision.name}, {trainer.optimizer.name}"
    phases = phases_of(trainer)
    if not is_plain(trainer):
        for number, phase in enumerate(phases, start=1):
            yield f"phase {number}", described(trainer, phase)
    if trainer.model.weights == "none" and any(phase.trainable != "all" for phase in phases):
        yield "take care", "trainer.model.weights=none: what a phase freezes before it was trained is random"
    elif trainer.fine_tuning and trainer.phases is None and trainer.model.weights == "none":
        yield "phases", "one, for trainer.fine_tuning is of loaded weights: trainer.model.weights=none"
    yield "global batch", str(trainer.global_batch_size)
    if placement is not None:
        count = placement.num_workers * replicas(job, placement.shares_per_worker)
        share = trainer.global_batch_size // count
        yield "batch a replica", f"{share} ({count} replicas)"
        if trainer.model.stages > 1:
            yield "stages", f"each replica's model is split over {trainer.model.stages} devices"
        fitted = Fitting(job, run_dir, Console(), count // placement.num_workers).fitted(job, placement.num_workers)
        if trainer.micro_batch == AUTO and fitted.trainer.micro_batch is None:
            yield "micro-batch", f"the largest that fits, at most {share}; found when the run begins"
        elif share:
            passes = accumulation_steps(fitted.trainer, count)
            found = "" if passes == accumulation_steps(trainer, count) else ", as this run has found"
            yield "micro-batch", f"{share // passes} ({passes} an update{found})"


def _cluster(job: JobSpec, placement: Placement | None) -> Iterator[tuple[str, str]]:
    if placement is None:
        yield "workers", f"{job.cluster.workers}, placed by the Ray cluster at {job.cluster.address}"
        return
    gpus = f"{placement.gpus} GPU{'s' * (placement.gpus > 1)}"
    device = gpus if placement.gpus else f"CPU ({placement.cpus:g} of Ray)"
    yield "workers", f"{placement.num_workers}, each with {device}"
    yield "strategy", placement.strategy
    if placement.shares_per_worker != placement.replicas_per_worker:
        yield "replicas", f"each CPU worker takes the shares of {placement.shares_per_worker} replicas in turn"
    for words in promises.unkept(job.trainer, placement.gpus > 0).values():
        yield "take care", words
