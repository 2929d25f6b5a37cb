"""Model parallelism: a model split over devices learns what it learns on one, alone and beside other replicas."""

import json

import keras
import numpy as np
import pytest

from conf import rules
from conf.errors import BadSpec
from conf.schema import Accelerator, ClusterSpec, JobSpec, ModelSpec, TrainerSpec
from tests.trainer import gang
from tests.trainer.arithmetic import by_keras, new_model, weights_of
from tests.trainer.staged import CASES
from trainer.model_parts import Block
from trainer.stages import split
from trainer.topology import batch_shape, find_topology

#: Workers, replicas of each, stages of a replica.
GROUPS = {"one": (1, 1, 2), "replicas": (1, 2, 2), "workers": (2, 1, 2)}
TOLERANCE = 1e-5


def block(name: str, *widths: int) -> Block:
    layers = []
    for width in widths:
        layers.append(keras.layers.Dense(width, use_bias=False))
        layers[-1].build((None, 1))
    return Block(name, tuple(layers))


def test_stages_are_consecutive_blocks_of_about_as_many_parameters():
    blocks = [block("stem", 1), block("a", 5), block("b", 5), block("c", 2, 6), block("head", 3)]
    names = [[b.name for b in stage] for stage in split(blocks, 2, "net")]
    assert names == [["stem", "a", "b"], ["c", "head"]]
    assert [[b.name for b in stage] for stage in split(blocks, 3, "net")] == [["stem", "a"], ["b"], ["c", "head"]]
    assert [len(stage) for stage in split(blocks, 5, "net")] == [1] * 5
    with pytest.raises(BadSpec, match=r"trainer.model.stages=6 - net has 5 blocks to split - at most 5"):
        split(blocks, 6, "net")


def job(stages: int, gpus: int | None, accelerator: Accelerator, workers: int = 1) -> JobSpec:
    cluster = ClusterSpec(workers=workers, gpus_per_worker=gpus, accelerator=accelerator)
    return JobSpec(cluster=cluster, trainer=TrainerSpec(model=ModelSpec(stages=stages), epochs=1))


def test_devices_are_replicas_times_stages():
    found = find_topology(job(2, 4, Accelerator.gpu), {}, 4)
    assert (found.num_replicas, found.stages, found.turns) == (2, 2, 1)
    found = find_topology(job(2, None, Accelerator.cpu), {}, 0)
    assert (found.num_replicas, found.stages) == (1, 2)
    environment = {"TF_CONFIG": json.dumps({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 1}})}
    asked = job(2, 4, Accelerator.cpu, workers=2)
    found = find_topology(asked, environment, 0)
    assert (found.num_replicas, found.turns, found.stages) == (2, 2, 2)
    assert batch_shape(asked, found).micro_batch_size == 16  # 64 for two workers, each of which takes two turns
    assert rules.batch_multiples(asked) == 4


def test_devices_that_do_not_suffice_are_refused():
    with pytest.raises(BadSpec, match=r"stages=3 - .* cluster.gpus_per_worker is 4 - .*gpus_per_worker=3 or 6"):
        rules.check(job(3, 4, Accelerator.gpu))
    with pytest.raises(BadSpec, match=r"stages=2 - .* worker 0 has 1 - .*gpus_per_worker=2"):
        find_topology(job(2, None, Accelerator.auto), {}, 1)
    with pytest.raises(BadSpec, match=r"stages=0 - a model is on at least one device"):
        rules.check(job(0, None, Accelerator.cpu))


@pytest.fixture(scope="module")
def groups(tmp_path_factory) -> dict[str, list[dict[str, np.ndarray]]]:
    """The weights of every replica of each group; all groups run at once."""
    running = {}
    for name, (workers, replicas, stages) in GROUPS.items():
        folder = tmp_path_factory.mktemp(name)
        running[name] = gang.start(folder, workers, "tests.trainer.staged", str(folder), str(replicas), str(stages))
    found = {}
    for name, started in running.items():
        gang.finish(started)
        workers, replicas, _ = GROUPS[name]
        folder = started[1]
        found[name] = [dict(np.load(folder / f"{number}.npz")) for number in range(workers * replicas)]
    return found


@pytest.mark.timeout(600)
def test_stages_learn_what_plain_keras_learns_on_one_device(groups):
    for name, case in CASES.items():
        expected, begun = by_keras(case), weights_of(new_model(case))
        for group, replicas in groups.items():
            for found in replicas:
                moved = 0
                for path, value in expected.items():
                    difference = np.abs(found[f"{name}:{path}"] - value).max()
                    assert difference <= TOLERANCE * np.abs(value).max(), f"{group}, {name}: {path} {difference:.2g}"
                    moved += np.abs(value - begun[path]).max() > 100 * TOLERANCE * np.abs(value).max()
                assert moved >= 0.7 * len(expected)


def test_every_stage_has_its_variables_on_its_own_device(groups):
    for group, (_, replicas, stages) in GROUPS.items():
        for number, found in enumerate(groups[group]):
            places = {path: int(value) for path, value in found.items() if path.startswith("batch-norm@")}
            own = [number % replicas + stage * replicas for stage in range(stages)]
            assert set(places.values()) == set(own)
            # The convolutions and the hidden layer hold most: the last stage is no more than what is left.
            assert places["batch-norm@conv1/kernel"] == own[0] and places["batch-norm@logits/kernel"] == own[1]
