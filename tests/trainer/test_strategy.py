"""What a worker asks of TensorFlow where it has GPUs. There is none here: TensorFlow is told of two, and heard out."""

import pytest
import tensorflow as tf

from conf.schema import JobSpec
from trainer.strategy import configure_devices, make_strategy
from trainer.topology import Topology

GPUS = [tf.config.PhysicalDevice(f"/physical_device:GPU:{number}", "GPU") for number in range(2)]


@pytest.fixture
def grown(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """GPU -> whether its memory was told to grow."""
    asked: dict[str, bool] = {}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: GPUS if kind == "GPU" else [])
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda device, grows: asked.update({device.name: grows})
    )
    return asked


@pytest.mark.parametrize("workers", [1, 2])
def test_the_memory_of_every_gpu_grows(grown: dict[str, bool], workers: int) -> None:
    configure_devices(JobSpec(), Topology(workers, 0, 2, 1, True), lanes=1, cores=2)
    assert grown == {gpu.name: True for gpu in GPUS}


def test_workers_with_gpus_talk_by_nccl_and_those_without_in_a_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {}
    monkeypatch.setattr("trainer.strategy.wait_for_leader", lambda _: None)
    monkeypatch.setattr(
        tf.distribute, "MultiWorkerMirroredStrategy", lambda *_, communication_options: communication_options
    )
    for on_gpu in (True, False):
        said[on_gpu] = make_strategy(Topology(2, 0, 2, 1, on_gpu)).implementation.name  # type: ignore[attr-defined]
    assert said == {True: "NCCL", False: "RING"}
