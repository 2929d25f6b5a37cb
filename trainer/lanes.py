"""Lanes: parts of a CPU replica's batch computed side by side, each on a core of its own.

TensorFlow divides every single operation among the cores and meets again after each, which leaves cores idle: on two of
them, two halves of a batch side by side took 0.75 to 0.8 of the time of the whole (a three-layer network, batch 16 to
64). The gradient is the sum over the parts, so it is the same as that of the batch wherever one example's output does
not depend on another example: not with BatchNorm.
"""

from conf.schema import JobSpec
from data_pipeline.order import BatchShape
from trainer.models import mixes_examples
from trainer.topology import Topology

#: Fewer examples than this do not keep a core busy.
FEWEST_EXAMPLES = 8


def num_lanes(job: JobSpec, topology: Topology, shape: BatchShape, cores: int, saved: int | None = None) -> int:
    """Into how many parts a micro-batch of this job is cut: the most, up to one a core, that divide it.

    A run that goes on takes as many as it was `saved` with, whatever the cores are now: each lane draws dropout masks
    of its own, so another number would be another run.
    """
    if topology.on_gpu or topology.local_replicas * topology.stages > 1:
        return 1
    if job.trainer.deterministic or mixes_examples(job.trainer.model):
        return 1
    if saved is not None and shape.micro_batch_size % saved == 0:
        return saved
    most = min(cores, shape.micro_batch_size // FEWEST_EXAMPLES)
    return max((count for count in range(1, most + 1) if shape.micro_batch_size % count == 0), default=1)
