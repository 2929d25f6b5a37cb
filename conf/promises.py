"""What a job asks for and does not get in full on the devices it has: said in its plan, and when it begins. Pure."""

from conf.schema import Compile, TrainerSpec

XLA_ON_CPU = (
    "trainer.compile=xla on a CPU: convolutions were slower than without in every measurement (a small network at half "
    "the speed, MobileNetV2 at a sixteenth); compare with job=benchmark, trainer.compile=none switches it off"
)
DETERMINISTIC_ON_GPU = (
    "trainer.deterministic=true on GPUs: TensorFlow takes its deterministic kernels, and an operation that has none "
    "ends the job by its name; the same bits are to be expected of the same GPUs, driver, CUDA and cuDNN alone, and in "
    "which order NCCL adds over several of them is not in Convoy's hands. On CPUs the same bits were seen again"
)


def unkept(trainer: TrainerSpec, on_gpu: bool) -> dict[str, str]:
    """Events, and what is said with each."""
    found = {}
    if trainer.compile is Compile.xla and not on_gpu:
        found["xla_on_cpu"] = XLA_ON_CPU
    if trainer.deterministic and on_gpu:
        found["deterministic_on_gpu"] = DETERMINISTIC_ON_GPU
    return found
