"""The tf.distribute strategy of a topology, and the devices and threads it needs."""

import os

import tensorflow as tf

from conf.schema import JobSpec
from trainer.leader import wait_for_leader
from trainer.stages import Devices
from trainer.topology import Topology

#: Gradients are reduced in packs of this size: 1.4 times faster than one collective a tensor (two processes, 89 MB).
PACK_BYTES = 32 << 20


def configure_devices(job: JobSpec, topology: Topology, lanes: int, cores: int) -> None:
    """Set up devices and threads. Must come before TensorFlow computes anything."""
    side_by_side = lanes if topology.on_gpu else lanes * topology.local_replicas
    if side_by_side > 1:
        # What runs side by side has the cores to itself; without this its operations get into one another's way.
        tf.config.threading.set_intra_op_parallelism_threads(max(cores // side_by_side, 1))
    if job.trainer.deterministic:
        # Op determinism alone leaves MobileNetV2's bits to the thread pool; one thread between ops does not.
        tf.config.experimental.enable_op_determinism()
        tf.config.threading.set_inter_op_parallelism_threads(1)
    if topology.on_gpu:
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    elif topology.local_replicas * topology.stages > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        devices = [tf.config.LogicalDeviceConfiguration() for _ in range(topology.local_replicas * topology.stages)]
        tf.config.set_logical_device_configuration(cpu, devices)


def make_strategy(topology: Topology) -> tf.distribute.Strategy:
    """MultiWorkerMirrored over workers, Mirrored over the devices of one, the default strategy for a single one."""
    if topology.num_workers > 1:
        implementations = tf.distribute.experimental.CommunicationImplementation
        implementation = implementations.NCCL if topology.on_gpu else implementations.RING
        options = tf.distribute.experimental.CommunicationOptions(implementation=implementation)
        wait_for_leader(os.environ)
        return tf.distribute.MultiWorkerMirroredStrategy(_resolver(topology), communication_options=options)
    if topology.local_replicas * topology.stages > 1:
        kind = "GPU" if topology.on_gpu else "CPU"
        return tf.distribute.MirroredStrategy([f"{kind}:{number}" for number in range(topology.local_replicas)])
    return tf.distribute.get_strategy()


def _resolver(topology: Topology) -> tf.distribute.cluster_resolver.ClusterResolver | None:
    """Who the workers are. TensorFlow would take each GPU for a replica; the later stages of one are none."""
    if topology.stages == 1 or not topology.on_gpu:
        return None
    known = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        known.cluster_spec(),
        task_type=known.task_type,
        task_id=known.task_id,
        num_accelerators={"GPU": topology.local_replicas},
        rpc_layer="grpc",
    )


def devices_of(topology: Topology) -> Devices | None:
    """The devices of this worker where a replica has several; else None."""
    if topology.stages == 1:
        return None
    return Devices("GPU" if topology.on_gpu else "CPU", topology.local_replicas, topology.stages)


def reduction_options() -> tf.distribute.experimental.CommunicationOptions:
    """How gradients travel."""
    return tf.distribute.experimental.CommunicationOptions(bytes_per_pack=PACK_BYTES)
