"""What training sees of some examples, epoch by epoch."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from conf.schema import AugmentSpec, JobSpec
from data_pipeline.augment.columns import NUM_DRAWS
from data_pipeline.batches import ChosenOrder
from data_pipeline.images import resolve_image_size
from data_pipeline.order import Places
from data_pipeline.pipeline import chosen_dataset
from data_pipeline.samples import Part

Pixels = NDArray[np.float32]


def versions(job: JobSpec, part: Part, examples: Places, epochs: int) -> list[Pixels]:
    """The examples as they are without augmentation, then as each of `epochs` epochs changes them: float32
    [n, side, side, channels], 0..255. `examples` are numbered as in `part`, which belongs to the train split.

    MixUp and CutMix put each together with its neighbour here; its neighbour in training is another one every epoch.
    """
    count = len(examples)
    examples = np.resize(examples, count + count % 2)  # pairs
    plain = ChosenOrder(examples, part.numbers[examples], job.seed, 0, 1)
    drawn = replace(plain, num_draws=NUM_DRAWS, num_steps=epochs)
    side = resolve_image_size(job.data, job.trainer.model, part.manifest)
    found: list[Pixels] = []
    for augment, order in ((AugmentSpec(), plain), (job.data.augment, drawn)):
        dataset = chosen_dataset(part.manifest, job.data, augment, order, side)
        found += [element["image"].numpy()[:count] for element in dataset]
    return found
