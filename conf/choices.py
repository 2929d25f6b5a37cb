"""What a user can choose between: one enumeration a choice, whose values say what each name means.

`conf/schema.py` says which keys take them, and everybody imports them from there.
"""

from enum import Enum


class Verb(Enum):
    """What to do with the job."""

    train = "prepare what is not prepared, train, evaluate, export"
    prepare = "write the data as TFRecords and stop"
    inspect = "show a prepared set: a table, and its images as contact sheets"
    benchmark = "measure whether the input or the model limits the job"
    find_lr = "try learning rates from small to large for some steps, and suggest one"
    sweep = "train with every combination of the values that some keys are given, or with random ones; or -m"
    evaluate = "measure the newest checkpoint of run_id on a split"
    export = "write the newest checkpoint of run_id as a SavedModel"
    checkpoints = "list, verify, prune or export the checkpoints of run_id"
    status = "say how run_id is doing"
    tensorboard = "show the curves of run_id, or of all runs of storage.root, in TensorBoard on this machine"
    stop = "ask run_id to save and stop"


class Accelerator(Enum):
    """What a replica computes on."""

    auto = "GPUs where the host has some, else the CPU"
    gpu = "GPUs; fewer than asked are refused"
    cpu = "the same shape of job on CPUs, to try it out"


class Precision(Enum):
    """Keras's dtype policy."""

    float32 = "float32"
    mixed_float16 = "float16 arithmetic, float32 variables, dynamic loss scaling"
    mixed_bfloat16 = "bfloat16 arithmetic, float32 variables"


class Remainder(Enum):
    """What becomes of the last, smaller batch of an epoch."""

    drop = "left out; the next epoch's order brings its examples elsewhere"
    pad = "filled up with masked examples which weigh nothing"


class Encoding(Enum):
    """How a prepared set stores its images."""

    files = "JPEGs as they are, everything else as PNG"
    pixels = "decoded, 8 bit a channel: several times the disk, and no decoding while training"


class Oversample(Enum):
    """Which examples come more than once in an epoch."""

    balanced = "those of rare classes, until each class has as many places as the largest"


class BadFile(Enum):
    """What to do with a file that cannot be read as an image."""

    stop = "stop and name it"
    skip = "leave it out, count it and name it in the report"


class Order(Enum):
    """How the examples of an epoch are shuffled."""

    auto = "blocks where the prepared set is far away and its training split larger than data.cache_bytes, else full"
    full = "one permutation of the whole split"
    blocks = "shards permuted; examples permuted within groups of shards, two of which fit into data.cache_bytes"


class BadRecord(Enum):
    """What to do with a prepared record that is not as it was written."""

    stop = "stop and name shard, record and offset"
    skip = "let it weigh nothing, name and count it; up to data.max_corrupt of a split"


class Compile(Enum):
    """Who compiles the forward and backward pass of a replica."""

    none = "nobody: TensorFlow runs its operations one by one"
    xla = "XLA: fewer passes over memory on GPUs, slower on most CPUs"


class OnBlowUp(Enum):
    """What to do where a loss or the norm of a gradient is not finite."""

    stop = "stop, and name the examples of the batch"
    skip = "go back to the last checkpoint and leave the batch out; up to trainer.max_blow_ups batches"


class BatchNormSync(Enum):
    """How BatchNorm sees the other replicas while training."""

    average = "own batch statistics; moving ones averaged before evaluations and checkpoints"
    synchronized = "batch statistics over all replicas in every step"


class Rematerialize(Enum):
    """What the backward pass computes again instead of keeping it: less memory for more time."""

    none = "nothing: every activation is kept until its gradient is there"
    blocks = "each block of the model from what went into it (gradient checkpointing)"


class Pixels(Enum):
    """What the first layers of a model make of pixels 0..255."""

    own = "what the family was designed for"
    unit = "0..1"
    signed = "-1..1"
    imagenet = "0..1, minus the mean and over the deviation of ImageNet's colours"


class Pooling(Enum):
    """How the last map of features becomes a vector."""

    avg = "the mean over all positions"
    max = "the largest over all positions"
    flatten = "every position by itself"


class Standby(Enum):
    """Whether workers are forked from a process that has TensorFlow imported already."""

    auto = "on CPUs yes; on GPUs each worker is a fresh process"
    on = "always"
    off = "never: each worker is a fresh process"


class StoreKind(Enum):
    """Where the run directory lives."""

    local = "a folder (for several hosts: one that all of them see)"
    gcs = "Google Cloud Storage, gs://bucket/path"


class KerasFormat(Enum):
    """A file of Keras's own."""

    keras = "the model with its weights, model.keras"
    weights_h5 = "the weights alone, model.weights.h5"


class FaultPhase(Enum):
    """When a fault comes."""

    starting = "before the worker builds anything"
    training = "after the first call of the compiled loop that reaches fault.at_step"
    evaluating = "in the first evaluation at or behind fault.at_step"
    saving = "in the first save at or behind fault.at_step: all files are written, their manifest is not"
    exporting = "while the trained model is exported"


class SweepKind(Enum):
    """How the trials of a sweep are chosen."""

    grid = "every combination of the values"
    random = "values drawn at random, sweep.trials times"


class SubmitKind(Enum):
    """Who drives the job."""

    here = "this process"


class Loss(Enum):
    """What is made small."""

    cross_entropy = "of the softmax"
    focal = "cross-entropy that looks at what is hard: Lin et al. 2017"
