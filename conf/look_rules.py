"""What may be asked for to look inside a training."""

from conf.errors import Problem
from conf.hyperparameters import NoSuchKey, hyperparameters
from conf.schema import JobSpec

#: A trace of more steps than this is too large to be looked at.
MOST_STEPS = 1000


def problems(job: JobSpec) -> list[Problem]:
    """Everything that is wrong with it."""
    found, key, looks = [], "trainer.tensorboard", job.trainer.tensorboard
    for name in ("histograms", "norms", "images"):
        if getattr(looks, name) < 0:
            law = "every so many points on the curves: 1 or more"
            found.append(Problem(f"{key}.{name}", getattr(looks, name), law, f"{key}.{name}=10, or 0 for never"))
    if looks.num_images < 1:
        law = "is a number of images above 0"
        found.append(Problem(f"{key}.num_images", looks.num_images, law, f"{key}.num_images=16"))
    try:
        hyperparameters(job)
    except NoSuchKey as error:
        law = "a job has no such key"
        found.append(Problem(f"{key}.hparams", error, law, f"{key}.hparams=[trainer.optimizer,seed]"))
    return found + _profile(job.trainer.profile)


def _profile(steps: list[int] | None) -> list[Problem]:
    if steps is None or (len(steps) == 2 and 0 <= steps[0] < steps[1] <= steps[0] + MOST_STEPS):
        return []
    law = f"is the first step and the one to end at, at most {MOST_STEPS} later"
    return [Problem("trainer.profile", steps, law, "trainer.profile=[100,110]")]
