"""Which weights a process begins with: the newest whole checkpoint's, pretrained ones, at the end the best."""

from conf.errors import BadSpec
from storage import run_dir as names
from storage.run_dir import RunDir
from trainer import pretrained
from trainer.checkpoint_files import Broken
from trainer.checkpoints import list_checkpoints, load, newest_whole
from trainer.loop import Progress
from trainer.session import Session


class Disagreement(Exception):
    """The workers do not stand at the same step."""


def restore(session: Session, run: RunDir, progress: Progress | None, must_exist: bool = False) -> int:
    """Take up the newest whole checkpoint, or else the pretrained weights; the step that the weights belong to.

    Where one `must_exist`, to have none is a BadSpec: weights that nobody trained are nothing to measure or to export.
    """
    found = newest_whole(run)
    step = 0
    if found is not None:
        if found.state["data"] != session.manifest.digest:
            law = f"the checkpoint of step {found.step} was trained on other data than what is prepared here now"
            raise BadSpec.of("data.path", session.manifest.url, law, "give the data it began with, or another run_id")
        session.resume(found.state)
        session.state.restore(found.tensors, f"step {found.step}")
        step = found.step
        if progress is not None:
            progress.resume(found.state["progress"])
            progress.finished = session.judges.stopped
        session.channel.say("event", event="restored", details={"step": step, "broken": found.broken})
    else:
        refuse_broken(run)
        if must_exist:
            law = "this run has no checkpoint yet, so there are no trained weights"
            raise BadSpec.of("run_id", run.run_id, law, f"train it first: run_id={run.run_id}")
        pretrained.load(session.model, session.job.trainer.model, session.channel)
        if session.averages:
            session.averages.begin()
    check_agreement(session, step)
    return step


def refuse_broken(run: RunDir) -> None:
    """Raise BadSpec where there are checkpoints but none is whole: to begin anew would lose what they hold."""
    broken = [status for status in list_checkpoints(run, verify=True) if status.problem]
    if broken:
        law = f"none of its {len(broken)} checkpoints is whole: {broken[-1].problem}"
        cure = f"restore {run.url}/{names.CHECKPOINTS} from a copy, or remove it to begin anew"
        raise BadSpec.of("run_id", run.run_id, law, cure)


def check_agreement(session: Session, step: int) -> None:
    """All workers must have restored the same step; Disagreement says that they do not see the same files."""
    if not session.agreement.everywhere(float(step)):
        raise Disagreement(
            f"worker {session.topology.rank} restored step {step}, another worker a different one: "
            "storage.root must be a folder that all hosts share, or a bucket"
        )


def take_best(session: Session, run: RunDir, step: int, metrics: dict[str, float]) -> tuple[int, dict[str, float]]:
    """At the end of a training, the weights of its best evaluation where the job asks for them; their step and metrics.

    They come from that step's checkpoint. Where it is broken, the last weights stay, and an event says so.
    """
    best = session.judges.patience.best_step
    if not session.judges.restores_best or best is None or best == step:
        return step, metrics
    check_agreement(session, step)  # the chief comes here when all is saved
    try:
        tensors, _ = load(run, best)
    except Broken as error:
        session.channel.say("event", event="best_is_broken", details={"step": best, "reason": str(error)})
        return step, metrics
    session.state.take_weights(tensors)
    session.channel.say("event", event="best_restored", details={"step": best})
    return best, session.judges.patience.metrics or metrics
