"""The names of a step's examples: their source's images are what the model was given in that step."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from conf.schema import DataSpec, Order, Oversample, Remainder
from data_pipeline.batch_names import name_batch
from data_pipeline.manifest import Manifest
from data_pipeline.order import BatchShape
from data_pipeline.pipeline import training_dataset
from data_pipeline.records import decode

DATA = DataSpec(channels=1)
BATCH, SEED = 64, 5


@pytest.mark.parametrize("step", [0, 18, 19, 20, 45])  # 1258 examples: step 19 is a whole one, or the rest of epoch 0
@pytest.mark.parametrize(
    "data",
    [
        DATA,
        replace(DATA, remainder=Remainder.pad),
        replace(DATA, oversample=Oversample.balanced),
        replace(DATA, order=Order.blocks, cache_bytes=20_000),
        replace(DATA, shuffle=False),
    ],
    ids=["full", "padded", "oversampled", "blocks", "stored"],
)
def test_the_named_examples_are_those_of_the_step(digits: Manifest, data: DataSpec, step: int) -> None:
    shape, reference = BatchShape(BATCH, 2, 2), load_digits().images[..., None] * (255 / 16)
    elements = training_dataset(digits, data, SEED, shape, range(2), 8, step).take(2).as_numpy_iterator()
    given = np.zeros((BATCH, 8, 8, 1), np.float32)
    mask = np.zeros(BATCH)
    for replica, element in enumerate(elements):
        given[shape.rows(replica)], mask[shape.rows(replica)] = element["image"], element["mask"]
    named = name_batch(digits, data, SEED, BATCH, step)
    assert len(named.examples) == mask.sum() > 0
    expected = [np.rint(reference[int(example.key or "")]) for example in named.examples]
    np.testing.assert_array_equal(given[mask > 0], expected)
    places = [example.place for example in named.examples]
    assert places == list(range(places[0], places[0] + len(places))) and places[0] % BATCH == 0


def test_a_name_leads_to_the_record(digits: Manifest) -> None:
    example = name_batch(digits, DATA, SEED, BATCH, 7).examples[11]
    path = Path(digits.url, example.shard)
    offset, length = np.fromfile(f"{path}.index", "<u8").reshape(-1, 2)[example.record].tolist()
    assert decode(path.read_bytes()[offset : offset + length]).key == example.key
