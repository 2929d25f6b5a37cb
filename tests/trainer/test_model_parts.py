"""Blocks of real models, and the parts that are named by them."""

import keras
import pytest

from conf.errors import BadSpec
from conf.schema import ModelSpec
from trainer.model_parts import blocks_of, depths, part_of, train_only
from trainer.models import block_pattern, build_model


@pytest.fixture(scope="module")
def mobilenet() -> keras.Model:
    return build_model(ModelSpec(name="mobilenetv2"), (32, 32, 3), 10)


def test_every_layer_is_in_one_block_and_blocks_come_in_order(mobilenet):
    blocks = blocks_of(mobilenet)
    names = [block.name for block in blocks]
    assert names == ["stem", "expanded_conv", *(f"block_{number}" for number in range(1, 17)), "head"]
    found = [layer for block in blocks for layer in block.layers]
    assert len(found) == len(mobilenet.layers) and {id(layer) for layer in found} == set(map(id, mobilenet.layers))
    assert [layer.name for layer in blocks[-1].layers] == ["logits"]
    deep = depths(blocks)
    assert (deep["logits/kernel"], deep["Conv_1/kernel"], deep["Conv1/kernel"]) == (0, 1, 18)


def test_shortcuts_without_a_name_belong_to_the_block_they_lie_in():
    model = build_model(ModelSpec(name="xception"), (71, 71, 3), 10)
    blocks = {block.name: {layer.name for layer in block.layers} for block in blocks_of(model)}
    assert list(blocks) == ["stem", *(f"block{number}" for number in range(1, 15)), "head"]
    nameless = [name for names in blocks.values() for name in names if name.startswith("conv2d")]
    assert len(nameless) == 4 and not any(name in blocks["stem"] for name in nameless)
    assert any(name.startswith("conv2d") for name in blocks["block13"])


@pytest.mark.parametrize(
    ("part", "lowest", "count"),
    [("all", "Conv1", 158), ("head", "logits", 2), (1, "block_16_expand", 14), ("block_16", "block_16_expand", 14)],
)
def test_a_part_reaches_from_its_lowest_layer_to_the_head(mobilenet, part, lowest, count):
    blocks = blocks_of(mobilenet)
    train_only(mobilenet, part_of(blocks, part, "trainer.phases.0.trainable"))
    found = [variable.path for variable in mobilenet.trainable_variables]
    assert found[0].startswith(lowest) and found[-1] == "logits/bias" and len(found) == count
    train_only(mobilenet, part_of(blocks, "all", ""))


def test_a_layer_may_be_named_in_the_middle_of_a_block(mobilenet):
    found = part_of(blocks_of(mobilenet), "block_16_project", "")
    assert found[0].name == "block_16_project" and found[-1].name == "logits" and len(found) == 7


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("blok_16", ["no layer or block of this name", "did you mean block_16", "blocks: stem, "]),
        (19, ["has 18 blocks"]),
    ],
)
def test_a_part_that_is_not_there_is_refused_with_the_nearest(mobilenet, part, words):
    with pytest.raises(BadSpec) as caught:
        part_of(blocks_of(mobilenet), part, "trainer.phases.1.trainable")
    assert "trainer.phases.1.trainable" in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_the_convnets_blocks_are_its_convolutions():
    spec = ModelSpec(options={"batch_norm": True})
    blocks = blocks_of(build_model(spec, (16, 16, 1), 10), block_pattern(spec))
    assert [block.name for block in blocks] == ["stem", "conv1", "conv2", "conv3", "head"]
    assert [layer.name for layer in blocks[2].layers] == ["conv2", "norm2", "pool2", "relu2"]


def test_inceptions_blocks_are_named_by_what_they_end_with():
    shape, dense = keras.Input((8,)), keras.layers.Dense
    low = keras.layers.Concatenate(name="mixed0")([dense(4, name="a")(shape), dense(4, name="b")(shape)])
    high = keras.layers.Concatenate(name="mixed1")([dense(4, name="c")(low), dense(4, name="d")(low)])
    model = keras.Model(shape, dense(3, name="logits")(keras.layers.ReLU(name="e")(high)))
    found = {block.name: [layer.name for layer in block.layers] for block in blocks_of(model)}
    assert list(found)[-1] == "head" and found["head"] == ["logits"]
    assert list(found) == ["stem", "mixed0", "mixed1", "head"]
    assert found["mixed1"] == ["c", "d", "mixed1", "e"]
