"""What a user can ask for: one dataclass a group, no logic.

Hydra lays the YAML groups over these classes, so every key is typed and an unknown one is refused. `None` means
"Convoy decides", and each such key says how. Rules across fields are in `conf/rules.py`, what can be chosen between in
`conf/choices.py`.
"""

from dataclasses import dataclass, field
from typing import Any

from conf.choices import (
    Accelerator,
    BadFile,
    BadRecord,
    BatchNormSync,
    Compile,
    Encoding,
    FaultPhase,
    KerasFormat,
    Loss,
    OnBlowUp,
    Order,
    Oversample,
    Pixels,
    Pooling,
    Precision,
    Remainder,
    Rematerialize,
    Standby,
    StoreKind,
    SubmitKind,
    SweepKind,
    Verb,
)


@dataclass
class SplitSpec:
    """Shares of the examples when the source has no splits of its own; they add up to 1."""

    train: float = 0.7  # what is learnt from
    validation: float = 0.2  # what evaluations while training measure
    test: float = 0.1  # what the report at the end is about


@dataclass
class AugmentSpec:
    """Random changes of training images, drawn from (seed, epoch, example). 0 or false switches one off."""

    flip: bool = False  # mirror left to right, half of the images
    pad_crop: int = 0  # pixels of reflected border, then a random crop back to the image's size
    crop_min_area: float = 1.0  # random resized crop: smallest share of the image that is kept; 1 is no crop
    crop_min_ratio: float = 0.75  # of such a crop, width to height: the narrowest...
    crop_max_ratio: float = 1.3333333333333333  # ...and the widest
    brightness: float = 0.0  # largest change, as a share of the full range
    contrast: float = 0.0  # contrast factor is drawn from [1 - contrast, 1 + contrast]
    saturation: float = 0.0  # away from grey or towards it, by a factor from [1 - saturation, 1 + saturation]
    hue: float = 0.0  # largest turn of the circle of hues; 0.5 reaches every hue
    rotation: float = 0.0  # largest angle either way, in degrees; what comes in from outside is the mirrored image
    translation: float = 0.0  # largest shift either way, as a share of the side
    shear: float = 0.0  # largest slant either way, in degrees
    zoom: float = 0.0  # size is multiplied by a factor from [1 - zoom, 1 + zoom]
    erasing: float = 0.0  # share of the images of which a rectangle (0.02..0.33 of it) gets their mean colour
    randaugment_ops: int = 0  # RandAugment: changes an image, drawn from fourteen
    randaugment_magnitude: float = 9.0  # RandAugment: their strength, 0..30
    mixup: float = 0.0  # MixUp: alpha of the Beta distribution that the shares of two images come from
    cutmix: float = 0.0  # CutMix: the same of the shares of their areas; with both, each takes half of the images


@dataclass
class DataSpec:
    """Where examples come from and how they become batches."""

    name: str = "digits"  # the file in data_pipeline/sources that reads them
    path: str | None = None  # folder, file or URL of the source, where it needs one
    out: str | None = None  # URL of the prepared TFRecords; default <storage.root>/_data/<name>-<digest>
    image_size: int | None = None  # side in pixels; default: the model's own, no larger than the stored images
    channels: int = 3  # 1 grey, 3 RGB
    split: SplitSpec = field(default_factory=SplitSpec)
    examples_per_class: int | None = None  # most that are prepared of a class of each split, drawn by seed; null: all
    num_shards: int | None = None  # a split; default: by shard_bytes
    shard_bytes: int = 134_217_728  # 128 MiB, where num_shards is not given
    max_side: int | None = None  # longer images are made smaller when they are prepared
    encoding: Encoding = Encoding.files  # pixels: stored decoded, after max_side; read several times faster
    verify: bool = False  # decode every JPEG when it is prepared, to find damage behind a whole head; 40 times slower
    on_bad_file: BadFile = BadFile.stop  # what becomes of files that are no images
    num_examples: int = 1024  # of the synthetic source alone
    num_classes: int = 10  # of the synthetic source alone
    remainder: Remainder = Remainder.drop  # what becomes of the last, smaller batch of an epoch
    memory_bytes: int = 536_870_912  # a split whose decoded images fit in is decoded once and kept; 0: never
    on_corrupt: BadRecord = BadRecord.stop  # what becomes of prepared records that are damaged
    max_corrupt: int = 100  # corrupt records of a split that the job skips, over all workers, before it stops
    shuffle: bool = True  # a new permutation every epoch; false keeps the prepared order
    order: Order = Order.auto  # what kind of permutation
    cache_dir: str | None = None  # where shards of gs:// are kept on each host; default: the temporary folder
    cache_bytes: int = 17_179_869_184  # 16 GiB: most that the shards in cache_dir take up
    oversample: Oversample | None = None  # null: each example once an epoch | balanced: each class equally often
    augment: AugmentSpec = field(default_factory=AugmentSpec)


@dataclass
class ModelSpec:
    """What is trained."""

    name: str = "convnet"  # a file in trainer/models, or one of the NAMES in such a file
    weights: str = "none"  # none | imagenet | path or URL of a .weights.h5, .h5 or .keras file, a run or a checkpoint
    pooling: Pooling | None = None  # default: the family's own, which is avg; convnet's flatten, vit's its class token
    hidden: list[int] = field(default_factory=list)  # widths of the layers between pooling and the last layer
    dropout: float = 0.0  # before the last layer
    stages: int = 1  # devices of a worker that the blocks of each replica are split over, by parameters
    stochastic_depth: float = 0.0  # vit: how often training leaves out the last block; others in proportion
    image_size: int | None = None  # default: what it was designed for; data.image_size overrides it
    min_image_size: int | None = None  # default: the family's
    pixels: Pixels = Pixels.own  # how pixels are normalised, as first layers of the model
    batch_norm: BatchNormSync = BatchNormSync.average  # how BatchNorm sees the other replicas
    batch_norm_momentum: float | None = None  # of moving statistics, per step; null: the family's own, 0.99 or 0.999
    options: dict[str, Any] = field(default_factory=dict)  # what this family alone understands


@dataclass
class OptimizerSpec:
    """How a gradient becomes a new weight."""

    name: str = "adam"  # sgd | adam | adamw | rmsprop | adagrad | lamb | lion
    learning_rate: float = 1e-3  # the highest; a schedule moves it below
    reference_batch_size: int | None = None  # the batch learning_rate was found for; it grows with the global batch
    momentum: float = 0.9  # sgd and rmsprop alone
    nesterov: bool = False  # sgd alone
    weight_decay: float = 0.0  # decoupled; leaves biases and normalisation alone
    layer_decay: float = 1.0  # a block's rate is that of the block above it times this; the head's is learning_rate
    clip_norm: float | None = None  # largest global norm of the gradient of all variables that it trains
    clip_variable_norm: float | None = None  # largest norm of each variable's gradient
    clip_value: float | None = None  # largest absolute value of a gradient's element


@dataclass
class ScheduleSpec:
    """How the learning rate moves, counted in optimizer steps."""

    name: str = "constant"  # constant | cosine | cosine_restarts | step | exponential | polynomial | one_cycle
    warmup_steps: int = 0  # linear, from 0; the schedule begins behind it
    end_factor: float = 0.0  # cosine, cosine_restarts and polynomial end at learning_rate * end_factor
    every_steps: int | None = None  # step and exponential: from one factor to the next; default: a third of the steps
    factor: float = 0.1  # step and exponential: what every_steps multiply the rate by
    power: float = 1.0  # polynomial: 1 is a straight line
    cycles: int = 4  # cosine_restarts: falls of equal length


@dataclass
class GroupSpec:
    """A part of the model with an optimizer of its own."""

    part: Any = "head"  # as PhaseSpec.trainable; a variable belongs to the first group whose part it is in
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)


@dataclass
class PhaseSpec:
    """A stretch of the training. At most one length; the last phase may have none: it lasts to the training's end."""

    trainable: Any = "all"  # all | head | NAME: from this layer or block upwards | N: the last N blocks and the head
    epochs: int | None = None  # its length in these...
    steps: int | None = None  # ...or in optimizer steps...
    examples: int | None = None  # ...or in these, rounded up to whole steps
    learning_rate: float | None = None  # null: the optimizer's
    optimizer: OptimizerSpec | None = None  # null: trainer.optimizer
    groups: list[GroupSpec] | None = None  # null: trainer.groups
    schedule: ScheduleSpec | None = None  # over the phase's own steps, warm-up included; null: trainer.schedule


@dataclass
class EarlyStoppingSpec:
    """When a training ends before its length is over: in the last phase alone. The best is that of all phases."""

    metric: str = "validation_accuracy"  # or validation_balanced_accuracy|macro_f1, or validation_loss: less is better
    patience: int | None = None  # evaluations without a better one; null: it does not end early
    min_delta: float = 0.0  # what is not better by more than this is not better
    restore_best: bool = True  # report and export the weights of the best evaluation, whether it stopped early or not


@dataclass
class PlateauSpec:
    """When learning rates are lowered beside what their schedule does. Begins anew in each phase."""

    metric: str = "validation_loss"  # or validation_accuracy|balanced_accuracy|macro_f1: more is better
    factor: float = 0.1  # what they are multiplied by
    patience: int | None = None  # evaluations without a better one; null: they are not lowered
    min_delta: float = 1e-4  # what is not better by more than this is not better
    cooldown: int = 0  # evaluations that do not count after they were lowered
    min_factor: float = 0.0  # never below this share of what the schedule says


@dataclass
class LooksSpec:
    """What TensorBoard shows of a training beside its curves. Off, nothing of it is computed. A run may change it."""

    histograms: int = 0  # of each weight and its gradient, at every so many points on the curves; 0: never
    norms: int = 0  # of each weight and its gradient, and of all gradients together; the same
    images: int = 0  # of the step at such a point, as the model sees them; the same
    num_images: int = 16  # so many of them
    times: bool = False  # where a step's time goes: input, computing, other replicas, checkpoints, evaluations
    memory: bool = False  # of the host and, in use and at most, of each GPU
    hparams: list[str] = field(default_factory=list)  # keys, or parts such as trainer.optimizer, beside the results


@dataclass
class TrainerSpec:
    """What is learnt and how. Nothing here depends on the cluster."""

    name: str = "convnet"  # of the recipe
    model: ModelSpec = field(default_factory=ModelSpec)
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    groups: list[GroupSpec] | None = None  # parts of the model with optimizers of their own; null: one for all
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    phases: list[PhaseSpec] | None = None  # one after the other; null: one phase that trains everything...
    fine_tuning: list[PhaseSpec] | None = None  # ...but these where model.weights are loaded
    epochs: int | None = None  # length of the training...
    steps: int | None = None  # ...or in optimizer steps, which wins where both are given
    global_batch_size: int = 64  # examples an update, over all replicas and micro-batches
    accumulation_steps: int = 1  # micro-batches a replica adds up before the update
    micro_batch: Any = None  # or the examples of one of them; auto: the most that fit, found when the run begins
    rematerialize: Rematerialize = Rematerialize.none  # what is computed again instead of kept
    precision: Precision = Precision.float32  # of the arithmetic; variables are float32
    compile: Compile = Compile.none  # who compiles forward and backward pass
    steps_per_loop: int = 10  # steps in one call of the compiled loop; progress and stops are seen between calls
    log_every_steps: int = 10  # from one point on the curves to the next
    checkpoint_every_steps: int = 100  # and one at the end
    eval_every_steps: int | None = None  # default: once an epoch
    eval_batch_size: int | None = None  # default: global_batch_size, cut as it is for training
    keep_checkpoints: int = 3  # the newest ones
    keep_best: int = 0  # and that many of the best by best_metric, as of the last evaluation before each
    best_metric: str = "validation_accuracy"  # or another that an evaluation gives, as early_stopping.metric
    keep_every_steps: int | None = None  # and those at multiples of it, for ever
    loss: Loss = Loss.cross_entropy  # what is made small
    focal_gamma: float = 2.0  # focal loss: how little well classified examples count; 0 is cross-entropy
    focal_alpha: float = 0.25  # focal loss: a factor on all of it
    l2: float = 0.0  # added to the loss: l2 * the squares of weights that train; not of biases and normalisation
    ema_decay: float | None = None  # evaluate and export averages of the weights that move by 1 - ema_decay each step
    early_stopping: EarlyStoppingSpec = field(default_factory=EarlyStoppingSpec)
    plateau: PlateauSpec = field(default_factory=PlateauSpec)  # lower the learning rate where nothing gets better
    label_smoothing: float = 0.0  # share of a target that is spread over all classes
    class_weights: Any = None  # null | balanced | {class: weight, ...}; classes that are not named weigh 1
    on_blow_up: OnBlowUp = OnBlowUp.stop  # where a loss or the norm of a gradient is not finite
    max_blow_ups: int = 3  # batches that are left out before it stops all the same
    blow_up_factor: float | None = None  # a loss so many times its running mean is one too; null: no finite one is
    tensorboard: LooksSpec = field(default_factory=LooksSpec)
    profile: list[int] | None = None  # [first, last]: the steps between them, traced for TensorBoard's profiler
    deterministic: bool = False  # same bits in every run on CPUs, at some cost
    evaluate_at_end: bool = True  # the test split (else validation), into report/metrics.json
    export_at_end: bool = True  # a SavedModel into export/saved_model


@dataclass
class ClusterSpec:
    """How many workers with what."""

    name: str = "local"  # of the shape
    workers: int = 1  # processes, on one host or on several
    gpus_per_worker: int | None = None  # default: every GPU of the host, if it has any
    cpus_per_worker: float = 1.0  # what is asked of Ray; a worker may use every core it sees
    accelerator: Accelerator = Accelerator.auto  # what a replica computes on
    address: str | None = None  # of a running Ray cluster, or "auto"; default: Convoy starts a Ray of its own
    start_timeout_s: float = 120.0  # until every worker that has a host has reported
    min_workers: int | None = None  # go on with as few where hosts are missing; default: wait for all
    capacity_timeout_s: float = 300.0  # how long hosts may be missing before it goes on with fewer, or stops
    hang_timeout_s: float | None = None  # without progress; default: 10 times the slowest loop seen, 120 s or more
    grace_s: float = 30.0  # for saving when the job is asked to stop
    max_restarts: int = 3  # after failures; 0 never restarts. What is not counted: launcher/recovery.py
    memory_limit_bytes: int | None = None  # a worker that takes up more of the host's memory ends; default: no bound
    standby: Standby = Standby.auto  # whether workers are forked from a process that has TensorFlow imported


@dataclass
class StorageSpec:
    """Where runs are kept."""

    kind: StoreKind = StoreKind.local  # what root names
    root: str = "runs"  # <root>/<run_id> is the run directory


@dataclass
class SubmitSpec:
    """Who drives the job."""

    kind: SubmitKind = SubmitKind.here  # who that is


@dataclass
class FaultSpec:
    """Faults put into a job on purpose, to see that a cluster survives them. None unless asked for.

    No part of what is learnt: a run is resumed with or without them.
    """

    kill_rank: int | None = None  # this worker dies by SIGKILL
    freeze_rank: int | None = None  # this worker stands still by SIGSTOP
    raise_rank: int | None = None  # this worker ends with an exception, as when a connection is lost
    exhaust_rank: int | None = None  # this worker ends with MemoryError
    slow_rank: int | None = None  # from then on this worker takes slow_s longer for each step: a straggler
    slow_s: float = 0.5  # so many seconds
    corrupt_checkpoint: bool = False  # the first checkpoint at or behind at_step is damaged, and the chief dies
    failing_writes: int = 0  # so many writes of checkpoint files fail, from at_step on
    at_step: int = 1  # counted in optimizer steps
    during: FaultPhase = FaultPhase.training  # the phase of the job that it comes in
    attempts: list[int] = field(default_factory=lambda: [1])  # that the faults hit, counted from the command


@dataclass
class InspectSpec:
    """What job=inspect shows of a prepared set."""

    out: str | None = None  # URL of the folder for the sheets; default <storage.root>/inspect-<name>-<digest>
    split: str = "train"  # whose images are shown
    examples: int = 32  # images of each class, the first that are stored
    rows: int = 16  # examples on the sheet of augmented versions, in turn of every class
    draws: int = 8  # versions of each: those of the epochs 0, 1, ...
    tile: int = 112  # side in pixels of the square an image is fitted into


@dataclass
class BenchmarkSpec:
    """How job=benchmark measures."""

    seconds: float = 5.0  # each: the reader alone, the model alone, both


@dataclass
class FindLrSpec:
    """What job=find_lr tries. Rates are those of the optimizer's key; the rates of groups move in proportion."""

    low: float = 1e-6  # the first step's rate
    high: float = 10.0  # the last one's; the test ends before it where the loss blows up
    steps: int = 100  # from one to the other, by equal factors
    phase: int = 1  # whose part of the model and optimizer are tried, counted from 1, on the weights before training


@dataclass
class SweepSpec:
    """How job=sweep tries values. Which values: in Hydra's words, such as key=1,2 or key=interval(0.1,1)."""

    kind: SweepKind = SweepKind.grid  # every combination, or random ones
    trials: int | None = None  # of a random sweep
    seed: int = 0  # of the draws; the training's own is `seed`
    metric: str = "validation_accuracy"  # what the table is sorted by; or another of those of best_metric
    at_once: int | None = None  # most trials at a time; null: as many as the cluster's resources hold


@dataclass
class CheckpointsSpec:
    """What job=checkpoints does beside listing them."""

    verify: bool = False  # read every byte and compare checksums
    prune: bool = False  # remove what trainer.keep_checkpoints and its like do not keep
    export: KerasFormat | None = None  # the newest whole one as export/model.keras or export/model.weights.h5


@dataclass
class TensorboardSpec:
    """How job=tensorboard shows curves."""

    port: int = 6006  # of 127.0.0.1; 0: any that is free


@dataclass
class JobSpec:
    """One job, whole."""

    job: Verb = Verb.train  # what to do
    run_id: str | None = None  # default: <trainer>-<data>-<date>-<time>
    seed: int = 0  # of everything that is drawn at random
    resume: bool = True  # false: refuse to touch a run that exists
    dry_run: bool = False  # print the plan, start nothing
    data: DataSpec = field(default_factory=DataSpec)
    trainer: TrainerSpec = field(default_factory=TrainerSpec)
    cluster: ClusterSpec = field(default_factory=ClusterSpec)
    storage: StorageSpec = field(default_factory=StorageSpec)
    submit: SubmitSpec = field(default_factory=SubmitSpec)
    fault: FaultSpec = field(default_factory=FaultSpec)
    inspect: InspectSpec = field(default_factory=InspectSpec)
    benchmark: BenchmarkSpec = field(default_factory=BenchmarkSpec)
    find_lr: FindLrSpec = field(default_factory=FindLrSpec)
    sweep: SweepSpec = field(default_factory=SweepSpec)
    checkpoints: CheckpointsSpec = field(default_factory=CheckpointsSpec)
    tensorboard: TensorboardSpec = field(default_factory=TensorboardSpec)
