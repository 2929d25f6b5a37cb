"""Every rule across fields. All problems are found and reported at once; what is wrong names its cure."""

import re

from conf import (
    augment_rules,
    class_weights,
    data_rules,
    families,
    fault_rules,
    judge_rules,
    look_rules,
    micro_batch,
    option_rules,
    phases,
    search_rules,
    stages,
)
from conf.errors import BadSpec, Problem
from conf.schema import (
    Accelerator,
    BatchNormSync,
    ClusterSpec,
    Compile,
    JobSpec,
    ModelSpec,
    Rematerialize,
    StoreKind,
    SubmitKind,
    TrainerSpec,
    Verb,
)
from conf.words import nearest as nearest

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
#: What the random generators of NumPy and TensorFlow take as a seed.
SEEDS = range(2**32)
#: Verbs that work on a run which must exist already.
ON_A_RUN = (Verb.evaluate, Verb.export, Verb.checkpoints, Verb.status, Verb.stop)


def check(job: JobSpec) -> None:
    """Raise BadSpec with every problem that can be known without touching the data or the cluster."""
    problems = [*_names(job), *_positive(job), *data_rules.problems(job.data), *_lengths(job.trainer), *_batches(job)]
    problems += [*_fewest(job), *_shares(job), *micro_batch.problems(job), *stages.problems(job)]
    problems += [*_compiled(job.trainer), *_places(job), *_cluster(job.cluster), *fault_rules.problems(job)]
    problems += [*search_rules.problems(job), *look_rules.problems(job)]
    if problems:
        raise BadSpec(problems)


def batch_multiples(job: JobSpec) -> int | None:
    """What the global batch must be a multiple of: workers x replicas x micro-batches (or the examples of one); None
    until hosts are seen.

    Twice that where examples are mixed in pairs.
    """
    replicas = job.cluster.gpus_per_worker
    if replicas is None:
        if job.cluster.accelerator is not Accelerator.cpu:
            return None
        replicas = 1
    else:
        replicas = stages.replicas(job, replicas)
    pairs = 2 if augment_rules.mixes(job.data.augment) else 1
    if isinstance(job.trainer.micro_batch, int):
        return job.cluster.workers * replicas * job.trainer.micro_batch
    return job.cluster.workers * replicas * job.trainer.accumulation_steps * pairs


def batch_problem(batch: int, multiple: int, shape: str) -> Problem | None:
    """The problem of a global batch that `multiple` does not divide, with the nearest that it does."""
    if batch % multiple == 0:
        return None
    below = batch // multiple * multiple
    candidates = [str(size) for size in (below, below + multiple) if size > 0]
    return Problem(
        "trainer.global_batch_size",
        batch,
        f"must be a multiple of {multiple} ({shape})",
        f"nearest: {', '.join(candidates)}",
    )


def model_problem(model: ModelSpec) -> Problem | None:
    """What is wrong with the name of a model, or with what is asked of the model of that name."""
    known = families.known()
    if model.name not in known:
        return Problem("trainer.model.name", model.name, "there is no such model", nearest(model.name, list(known)))
    if model.stochastic_depth and not known[model.name].stochastic_depth:
        those = ", ".join(name for name, family in known.items() if family.stochastic_depth)
        law = f"{model.name} has no residual blocks that Convoy could leave out"
        return Problem("trainer.model.stochastic_depth", model.stochastic_depth, law, f"0, or one of {those}")
    return next(option_rules.problems(model, known[model.name]), None)


def _names(job: JobSpec) -> list[Problem]:
    problems = []
    if job.run_id is not None and not RUN_ID.fullmatch(job.run_id):
        law = (
            "a run_id is letters, digits, '.', '_' and '-', begins with a letter or digit, and has at most 128 of them"
        )
        problems.append(Problem("run_id", job.run_id, law, "choose another name, such as run_id=first-try"))
    if job.run_id is None and job.job in ON_A_RUN:
        problems.append(
            Problem("run_id", None, f"job={job.job.name} works on a run that exists", "name it: run_id=...")
        )
    for field, word, known in (("trainer.best_metric", job.trainer.best_metric, judge_rules.METRICS),):
        if word not in known:
            problems.append(Problem(field, word, "there is none of this name", nearest(word, known)))
    problems += class_weights.problems(job.trainer.class_weights)
    if job.checkpoints.export is not None and (job.checkpoints.verify or job.checkpoints.prune):
        law = "an export is made by itself; checkpoints.verify and checkpoints.prune go with a list"
        problems.append(Problem("checkpoints.export", job.checkpoints.export, law, "two commands, one for each"))
    return problems + _balanced_twice(job) + _port(job.tensorboard.port)


def _port(port: int) -> list[Problem]:
    if 0 <= port < 2**16:
        return []
    law = "a port is a number from 1 to 65535, or 0 for any that is free"
    return [Problem("tensorboard.port", port, law, "tensorboard.port=6006")]


def _balanced_twice(job: JobSpec) -> list[Problem]:
    if job.data.oversample is None or job.trainer.class_weights != "balanced":
        return []
    law = "trainer.class_weights=balanced evens the classes out already, and twice favours the rare ones"
    return [Problem("data.oversample", job.data.oversample, law, "one of the two")]


def _positive(job: JobSpec) -> list[Problem]:
    trainer, data, cluster = job.trainer, job.data, job.cluster
    counts = {
        "trainer.epochs": trainer.epochs,
        "trainer.steps": trainer.steps,
        "trainer.global_batch_size": trainer.global_batch_size,
        "trainer.accumulation_steps": trainer.accumulation_steps,
        "trainer.steps_per_loop": trainer.steps_per_loop,
        "trainer.log_every_steps": trainer.log_every_steps,
        "trainer.checkpoint_every_steps": trainer.checkpoint_every_steps,
        "trainer.eval_every_steps": trainer.eval_every_steps,
        "trainer.eval_batch_size": trainer.eval_batch_size,
        "trainer.keep_checkpoints": trainer.keep_checkpoints,
        "trainer.max_blow_ups": trainer.max_blow_ups,
        "trainer.keep_every_steps": trainer.keep_every_steps,
        "trainer.model.image_size": trainer.model.image_size,
        "trainer.model.min_image_size": trainer.model.min_image_size,
        "data.image_size": data.image_size,
        "data.examples_per_class": data.examples_per_class,
        "data.num_shards": data.num_shards,
        "data.shard_bytes": data.shard_bytes,
        "data.max_side": data.max_side,
        "inspect.examples": job.inspect.examples,
        "inspect.rows": job.inspect.rows,
        "inspect.draws": job.inspect.draws,
        "inspect.tile": job.inspect.tile,
        "benchmark.seconds": job.benchmark.seconds,
        "data.cache_bytes": data.cache_bytes,
        "cluster.workers": cluster.workers,
        "cluster.gpus_per_worker": cluster.gpus_per_worker,
        "cluster.start_timeout_s": cluster.start_timeout_s,
        "cluster.capacity_timeout_s": cluster.capacity_timeout_s,
        "cluster.min_workers": cluster.min_workers,
        "cluster.hang_timeout_s": cluster.hang_timeout_s,
        "cluster.grace_s": cluster.grace_s,
        "cluster.memory_limit_bytes": cluster.memory_limit_bytes,
    }
    problems = [
        Problem(name, value, "must be greater than 0", f"leave {name} out for its default, or give a positive number")
        for name, value in counts.items()
        if value is not None and not value > 0
    ]
    if job.seed not in SEEDS:
        law = f"a seed is a whole number from 0 to {SEEDS[-1]}"
        problems.append(Problem("seed", job.seed, law, f"seed={abs(job.seed) % len(SEEDS)}"))
    return problems


def _lengths(trainer: TrainerSpec) -> list[Problem]:
    if trainer.keep_best < 0:
        return [Problem("trainer.keep_best", trainer.keep_best, "must be at least 0", "0 keeps the newest alone")]
    return phases.problems(trainer) + judge_rules.problems(trainer)


def _fewest(job: JobSpec) -> list[Problem]:
    """An elastic job can be cut into shares on its smallest number of workers too."""
    fewest, workers = job.cluster.min_workers, job.cluster.workers
    if fewest is None or workers <= 0:
        return []
    if fewest > workers:
        law = f"is at most cluster.workers, which is {workers}"
        return [Problem("cluster.min_workers", fewest, law, f"cluster.min_workers={workers}, or leave it out")]
    multiple = batch_multiples(job)
    if fewest <= 0 or multiple is None or multiple <= 0:
        return []
    problem = batch_problem(
        job.trainer.global_batch_size, multiple // workers * fewest, f"on cluster.min_workers={fewest} workers"
    )
    return [problem] if problem else []


def _batches(job: JobSpec) -> list[Problem]:
    multiple = batch_multiples(job)
    if multiple is None or multiple <= 0:
        return []
    workers, replicas = job.cluster.workers, stages.replicas(job, job.cluster.gpus_per_worker)
    shape = f"{workers} workers x {replicas} replicas x {job.trainer.accumulation_steps} micro-batches"
    if isinstance(job.trainer.micro_batch, int):
        shape = f"{workers} workers x {replicas} replicas x trainer.micro_batch={job.trainer.micro_batch}"
    elif augment_rules.mixes(job.data.augment):
        shape += " x 2, for MixUp and CutMix take pairs"
    problem = batch_problem(job.trainer.global_batch_size, multiple, shape)
    return [problem] if problem else []


def _compiled(trainer: TrainerSpec) -> list[Problem]:
    if trainer.compile is not Compile.xla:
        return []
    problems = []
    if trainer.model.batch_norm is BatchNormSync.synchronized:
        law = "XLA compiles one replica's forward pass, inside of which synchronized BatchNorm talks to the others"
        cure = "trainer.compile=none, or trainer.model.batch_norm=average"
        problems.append(Problem("trainer.compile", trainer.compile, law, cure))
    if trainer.rematerialize is not Rematerialize.none:
        law = "XLA computes what occurs twice once, and so keeps what rematerialisation would compute again"
        cure = "trainer.compile=none, or trainer.rematerialize=none"
        problems.append(Problem("trainer.compile", trainer.compile, law, cure))
    if trainer.model.stages > 1:
        law = f"XLA compiles for one device, and trainer.model.stages={trainer.model.stages} are on several"
        cure = "trainer.compile=none, or trainer.model.stages=1"
        problems.append(Problem("trainer.compile", trainer.compile, law, cure))
    return problems


def _shares(job: JobSpec) -> list[Problem]:
    problems = data_rules.split_problems(job.data.split)
    ranges = {
        "trainer.label_smoothing": (job.trainer.label_smoothing, 1.0),
        "trainer.model.dropout": (job.trainer.model.dropout, 1.0),
        "trainer.model.stochastic_depth": (job.trainer.model.stochastic_depth, 1.0),
        "trainer.model.batch_norm_momentum": (job.trainer.model.batch_norm_momentum or 0.0, 1.0),
    }
    for name, (value, limit) in ranges.items():
        if not 0 <= value < limit:
            problems.append(Problem(name, value, f"is a share in [0, {limit:g})", f"{name}=0.1"))
    model = job.trainer.model
    key = "trainer.model.image_size" if job.data.image_size is None else "data.image_size"
    size, smallest = job.data.image_size or model.image_size, families.min_image_size(model)
    if size is not None and 0 < size < smallest:
        law = f"{model.name} cannot take images smaller than {smallest} pixels"
        problems.append(Problem(key, size, law, f"{key}={smallest}"))
    for width in model.hidden:
        if width <= 0:
            law = "a hidden layer has at least one unit"
            problems.append(Problem("trainer.model.hidden", width, law, "trainer.model.hidden=[256]"))
    return problems


def _places(job: JobSpec) -> list[Problem]:
    problems = []
    root, kind = job.storage.root, job.storage.kind
    if (kind is StoreKind.gcs) != root.startswith("gs://"):
        law = f"storage={kind.name} keeps runs {'in a bucket' if kind is StoreKind.gcs else 'in a folder'}"
        cure = "storage=gcs storage.root=gs://bucket/path, or storage=local storage.root=FOLDER"
        problems.append(Problem("storage.root", root, law, cure))
    if job.submit.kind is not SubmitKind.here:
        problems.append(Problem("submit.kind", job.submit.kind, "this version drives jobs itself", "submit=here"))
    return problems


def _cluster(cluster: ClusterSpec) -> list[Problem]:
    problems = []
    if cluster.max_restarts < 0:
        law = "a number of restarts is at least 0"
        problems.append(Problem("cluster.max_restarts", cluster.max_restarts, law, "0 never restarts"))
    if not cluster.cpus_per_worker > 0:
        law = "a worker needs some of a CPU"
        problems.append(Problem("cluster.cpus_per_worker", cluster.cpus_per_worker, law, "cluster.cpus_per_worker=1"))
    return problems
