"""Everything that a training is made of, built once in the right order: devices, strategy, model, step, data, state."""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from conf.data_url import data_url
from conf.epoch import places_in_epoch
from conf.errors import BadSpec
from conf.phases import phase_steps
from conf.schema import BatchNormSync, Compile, JobSpec, OptimizerSpec
from data_pipeline.images import resolve_image_size
from data_pipeline.manifest import Manifest, load_manifest
from data_pipeline.order import evaluation_steps, examples_before, steps_per_epoch
from data_pipeline.pipeline import evaluation_dataset, training_dataset
from data_pipeline.reader import Skipped
from trainer import budget, precision
from trainer.agreement import Agreement
from trainer.averages import WeightAverages
from trainer.batch_norm import averaging, batch_norms, statistics_of
from trainer.channel import Channel
from trainer.evaluation.counts import Counts
from trainer.evaluation.evaluator import Evaluator
from trainer.glance import Glance
from trainer.judges import Judges
from trainer.lanes import num_lanes
from trainer.ledger import Ledger
from trainer.loop import Progress
from trainer.model_parts import blocks_of
from trainer.models import block_pattern, build_model
from trainer.objective import make_objective, regularise
from trainer.pace import Clock
from trainer.phases import Phases, rate_factor
from trainer.provenance import learning_digest
from trainer.segmented import segmented_model
from trainer.stages import make_plan
from trainer.state import TrainingState
from trainer.step import TrainingStep
from trainer.strategy import configure_devices, devices_of, make_strategy
from trainer.topology import Topology, batch_shape, evaluation_shape

log = logging.getLogger(__name__)

#: Images a proof of an export is run on.
NUM_PROOFS = 16


@dataclass(frozen=True)
class Lengths:
    """How long the training is, in optimizer steps."""

    steps: int
    steps_per_epoch: int
    phases: tuple[int, ...]


class Session:
    """One job in one process: what the loop and its actions work with."""

    def __init__(self, job: JobSpec, topology: Topology, channel: Channel, saved_lanes: int | None = None):
        self.job, self.topology, self.channel, self.ledger = job, topology, channel, Ledger()
        self.manifest = load_manifest(data_url(job))
        self.shape = batch_shape(job, topology)
        self.lengths = lengths(job, self.manifest)
        self.image_size = resolve_image_size(job.data, job.trainer.model, self.manifest)
        cores = len(os.sched_getaffinity(0))
        self.lanes = num_lanes(job, topology, self.shape, cores, saved_lanes)
        self.eval_shape = evaluation_shape(job, topology, self.lanes)
        configure_devices(job, topology, self.lanes, cores)
        self.strategy = make_strategy(topology)
        self.agreement = Agreement(self.strategy, topology.num_workers)
        self.devices = devices_of(topology)
        self.model = self._placed_model()
        with self.strategy.scope():
            self._build()
        self._evaluation_datasets: dict[str, tf.data.Dataset] = {}

    def _placed_model(self) -> keras.Model:
        """The model that trains, its variables on the devices of their stages."""
        placing: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.devices is not None:
            pattern = block_pattern(self.job.trainer.model)
            self._forget_names()
            placing = make_plan(self.new_model, lambda model: blocks_of(model, pattern), self.devices).placing()
        self._forget_names()
        with placing, self.strategy.scope():
            return self.new_model()

    def _forget_names(self) -> None:
        # Names of layers count up within a process; checkpoints want them to be the same in every one.
        keras.utils.clear_session(free_memory=False)
        precision.set_policy(self.job.trainer.precision)  # which clear_session has put back to float32

    def _build(self) -> None:
        trainer = self.job.trainer
        if trainer.l2:
            regularise(self.model, trainer.l2)
        decay = trainer.ema_decay
        self.averages = WeightAverages(self.strategy, self.model, decay) if decay is not None else None
        self.judges = Judges.of(trainer)
        blocks = blocks_of(self.model, block_pattern(trainer.model))
        self.segmented = segmented_model(trainer, self.model, blocks, self.devices)
        factor = rate_factor() if self.judges.plateau else None
        self.phases = Phases(trainer, self.model, blocks, self.lengths.phases, factor)
        self.loss_scale = precision.make_loss_scale(trainer.precision)
        # On one device it is evaluated as a whole; on several, what would not fit on one stays where it is.
        evaluated = self.segmented if self.devices and self.segmented else self.model
        self.evaluator = Evaluator(self.strategy, evaluated, self.manifest.num_classes, self.lanes)
        self.state = TrainingState(self.model, self.phases.optimizer, self.loss_scale, self.averages)
        self._compile()

    def _compile(self) -> None:
        """The step of the phase at hand, in the strategy's scope; it is traced when it is first run."""
        trainer = self.job.trainer
        self.state.optimizer = self.phases.optimizer
        statistics = statistics_of(layer for layer in batch_norms(self.model) if layer.trainable)
        averages = self.averages
        if averages:
            averages.follow([*self.model.trainable_variables, *statistics])
        self.glance = self._new_glance()
        self.step = TrainingStep(
            self.strategy,
            self.model,
            self.phases.optimizer,
            make_objective(trainer, self.manifest),
            trainer.optimizer if self.phases.is_plain else OptimizerSpec(),
            self.shape.accumulation_steps,
            trainer.model.batch_norm is BatchNormSync.synchronized,
            self.loss_scale,
            self.lanes,
            averages,
            Clock(runs=not trainer.deterministic),
            self.segmented,
            trainer.compile is Compile.xla,
            self.glance,
            trainer.blow_up_factor,
        )
        averaged = averages.averages_of(statistics) if averages else []
        self.average_batch_norm = averaging(self.strategy, self.model, averaged)

    def _new_glance(self) -> Glance | None:
        """What keeps gradients and images of each step where TensorBoard shows some."""
        looks = self.job.trainer.tensorboard
        variables = self.model.trainable_variables if looks.histograms or looks.norms else []
        num_images = min(looks.num_images, self.shape.replica_batch_size) if looks.images else 0
        side = self.image_size
        if not variables and not num_images:
            return None
        return Glance(variables, num_images, (side, side, self.job.data.channels))

    def change_phase(self, number: int) -> None:
        """Go over to a later phase: freeze and thaw, other optimizers, a new step. Every worker, at the same step."""
        with self.strategy.scope():
            self.phases.go_on(number)
            self.judges.next_phase()
            self.phases.set_factor(self.judges.rate.factor)
            self._compile()

    def resume(self, state: dict[str, Any]) -> None:
        """Stand in the phase that a checkpoint was saved in, judge as it did, ready for its tensors."""
        with self.strategy.scope():
            if self.phases.resume(state.get("phase")):
                self._compile()
        self.judges.resume(state.get("judges"))
        self.phases.set_factor(self.judges.rate.factor)

    @functools.cached_property
    def learning(self) -> str:
        """The digest of what is learnt, made once: every checkpoint holds it, and the training waits meanwhile."""
        return learning_digest(self.job)

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Within it the model has the weights that are evaluated and exported. Every worker has to enter it."""
        return self.averages.in_place() if self.averages else contextlib.nullcontext()

    def new_model(self) -> keras.Model:
        """The job's model with random weights, in the strategy at hand."""
        keras.utils.set_random_seed(self.job.seed)
        side = self.image_size
        return build_model(self.job.trainer.model, (side, side, self.job.data.channels), self.manifest.num_classes)

    def training_batches(self, start_step: int) -> Iterator[dict[str, tf.Tensor]]:
        """This worker's shares of the batches from `start_step` on, without end."""
        return self.distributed(self.training_dataset(start_step))

    def training_dataset(self, start_step: int) -> tf.data.Dataset:
        """The same as a plain dataset: the elements of each step for this worker's replicas, one after the other."""
        job, replicas = self.job, self.topology.replicas
        return training_dataset(
            self.manifest, job.data, job.seed, self.shape, replicas, self.image_size, start_step, self._tell_skipped
        )

    def _tell_skipped(self, skipped: Skipped) -> None:
        self.channel.say("event", event="corrupt_record", details=skipped._asdict())

    def num_skipped(self, progress: Progress) -> int:
        """How many examples of the window at hand were left out because they are corrupt, over all workers."""
        data, split, size = self.job.data, self.manifest.splits["train"], self.shape.global_batch_size
        places = places_in_epoch(split.num_examples, split.class_counts, data.oversample)

        def between(first: int, last: int) -> int:
            before, after = (examples_before(step, places, size, data.remainder) for step in (first, last))
            return after - before

        begin = progress.step - progress.window.steps - progress.window.left_out
        passed_over = sum(between(step - 1, step) for step in progress.left_out if begin < step <= progress.step)
        return between(begin, progress.step) - passed_over - round(progress.window.examples)

    def distributed(self, dataset: tf.data.Dataset) -> Iterator[dict[str, tf.Tensor]]:
        """Such a dataset, which has no end, as the strategy takes it."""
        # Else several workers would ask one another before each step whether there is another batch.
        endless = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
        return iter(self.strategy.distribute_datasets_from_function(lambda _: endless))

    def measure(self, split: str, stops: bool = False) -> Counts:
        """Evaluate `split` with the weights at hand. Every worker has to call it; all get the same counts.

        Where it `stops`, Interrupted is raised, by all workers at the same batch, once one of them shall stop.
        """
        self.average_batch_norm()
        dataset = self._evaluation_dataset(split)
        num_steps = evaluation_steps(self.manifest.splits[split].num_examples, self.eval_shape.global_batch_size)
        with self.averaged():
            counts = self.evaluator.measure(
                dataset,
                num_steps,
                lambda done: self.channel.say("progress", phase="evaluating", done=done, of=num_steps),
                (lambda: self.agreement.anywhere(self.channel.stop_requested)) if stops else None,
            )
        lost = self.manifest.splits[split].num_examples - counts.num_examples
        budget.check(self.manifest, split, self.job.data, lost)
        return counts

    def _evaluation_dataset(self, split: str) -> tf.data.Dataset:
        """Made once a split: small ones are decoded when they are made."""
        if split not in self._evaluation_datasets:
            self._evaluation_datasets[split] = evaluation_dataset(
                self.manifest,
                split,
                self.job.data,
                self.eval_shape,
                self.topology.replicas,
                self.image_size,
                self._tell_skipped,
            )
        return self._evaluation_datasets[split]

    def examples(self, split: str) -> np.ndarray:
        """A few real images of `split`, as the model takes them: float32 [n, height, width, channels]."""
        shape = self.eval_shape.__class__(NUM_PROOFS)
        dataset = evaluation_dataset(self.manifest, split, self.job.data, shape, range(1), self.image_size)
        first = next(iter(dataset))
        return first["image"].numpy()[first["mask"].numpy() > 0]

    def validation_split(self) -> str | None:
        """The split that is measured during training, if there is one. Never the test split."""
        return "validation" if _holds(self.manifest, "validation") else None

    def final_split(self) -> str | None:
        """The split that the report is about: test, else validation."""
        return next((split for split in ("test", "validation") if _holds(self.manifest, split)), None)


def lengths(job: JobSpec, manifest: Manifest) -> Lengths:
    """Steps of the training and of an epoch; refused where not even one batch can be filled."""
    trainer, split = job.trainer, manifest.splits["train"]
    examples = places_in_epoch(split.num_examples, split.class_counts, job.data.oversample)
    an_epoch = steps_per_epoch(examples, trainer.global_batch_size, job.data.remainder)
    if an_epoch == 0:
        law = f"the training split has only {examples} examples"
        raise BadSpec.of(
            "trainer.global_batch_size", trainer.global_batch_size, law, "a smaller batch, or data.remainder=pad"
        )
    phases = phase_steps(trainer, an_epoch)
    return Lengths(sum(phases), an_epoch, tuple(phases))


def _holds(manifest: Manifest, split: str) -> bool:
    return split in manifest.splits and manifest.splits[split].num_examples > 0
