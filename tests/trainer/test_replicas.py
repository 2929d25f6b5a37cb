"""Law 1 in groups of replicas: each case of arithmetic.py and phased.py ends where plain Keras ends on one.

One file, because each group trains in processes of its own, once for all that is compared.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.ports import free_ports
from tests.trainer import test_phases, test_step
from tests.trainer.arithmetic import AVERAGED, CASES, cases_of, new_model, weights_of
from tests.trainer.phased import PHASED

ROOT = Path(__file__).resolve().parents[2]
GROUPS = (("mirrored", 2), ("mirrored", 4), ("workers", 2), ("workers", 4))
OF_TWO = GROUPS[0], GROUPS[2]


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """Each group's weights after every case of replicas.py: a dictionary for each replica. All groups run at once."""
    running = {group: start(group, tmp_path_factory.mktemp("-".join(map(str, group)))) for group in GROUPS}
    return {group: finish(group, *started) for group, started in running.items()}


def start(group: tuple[str, int], folder: Path, *cases: str) -> tuple[list[subprocess.Popen], Path]:
    kind, number = group
    addresses = [f"127.0.0.1:{port}" for port in free_ports(number)]
    processes = []
    for rank in range(number if kind == "workers" else 1):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"} | (
            {"TF_CONFIG": json.dumps(config)} if kind == "workers" else {}
        )
        command = [sys.executable, "-m", "tests.trainer.replicas", str(folder), kind, str(number), *cases]
        with (folder / f"{rank}.log").open("w") as log:
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    return processes, folder


def finish(group: tuple[str, int], processes: list[subprocess.Popen], folder: Path) -> list[dict[str, np.ndarray]]:
    codes = [process.wait(timeout=560) for process in processes]
    assert not any(codes), f"{group}: {(folder / '0.log').read_text()[-3000:]}"
    return [dict(np.load(folder / f"{replica}.npz")) for replica in range(group[1])]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[1]}-{group[0]}")
def test_replicas_equal_plain_keras(group, groups):
    for weights in groups[group]:
        for name in set(cases_of(group[1])) & set(CASES):
            test_step.compare(name, weights_of_case(weights, name))


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[1]}-{group[0]}")
def test_averaged_batch_norm_statistics_are_the_same_everywhere(group, groups):
    first, *others = (weights_of_case(weights, "averaged-batch-norm") for weights in groups[group])
    statistics = [path for path in first if "moving" in path]
    begun = weights_of(new_model(AVERAGED))
    assert len(statistics) == 4 and len(others) == group[1] - 1
    for path in statistics:
        assert not np.allclose(first[path], begun[path], atol=1e-3)
        assert all(np.array_equal(first[path], other[path]) for other in others)


@pytest.mark.parametrize("group", OF_TWO, ids=lambda group: f"{group[1]}-{group[0]}")
def test_averages_of_batch_norm_statistics_are_the_same_everywhere(group, groups):
    first, second = (weights_of_case(weights, "averaged-statistics") for weights in groups[group])
    plain, other = (weights_of_case(weights, "averaged-batch-norm") for weights in groups[group])
    statistics = [path for path in first if "moving" in path]
    assert len(statistics) == 4 and plain.keys() == first.keys() == second.keys() == other.keys()
    for path in statistics:
        assert not np.allclose(first[path], plain[path], atol=1e-4), "they are no averages"
        assert np.array_equal(first[path], second[path])


@pytest.mark.parametrize("group", OF_TWO, ids=lambda group: f"{group[1]}-{group[0]}")
def test_what_xla_compiles_updates_its_own_replicas_statistics(group, groups):
    """Before they are averaged each replica has its own, so a replica that moved another's would end elsewhere."""
    for weights in groups[group]:
        plain, found = (weights_of_case(weights, name) for name in ("averaged-batch-norm", "xla-averaged"))
        assert plain.keys() == found.keys()
        for path, value in plain.items():
            assert np.abs(found[path] - value).max() <= test_step.TOLERANCE * np.abs(value).max(), path


@pytest.mark.parametrize("group", OF_TWO, ids=lambda group: f"{group[1]}-{group[0]}")
def test_phases_equal_plain_keras_layer_by_layer(group, groups):
    for weights in groups[group]:
        for name in PHASED:
            test_phases.compare(name, weights_of_case(weights, name))


@pytest.mark.parametrize("group", GROUPS[2:], ids=lambda group: f"{group[1]}-{group[0]}")
def test_all_workers_hear_of_one_that_wishes_something_or_stands_elsewhere(group, groups):
    for found in groups[group]:
        assert found["agreement:anywhere"].tolist() == [False, True], "the last one alone wished it"
        assert found["agreement:everywhere"].tolist() == [False, True]


def weights_of_case(weights: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key.partition(":")[2]: value for key, value in weights.items() if key.startswith(f"{name}:")}
