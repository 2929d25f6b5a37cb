"""What to do when an attempt has ended. Statuses in, a Decision out. Pure: no process, no clock, no store.

done            every worker ended with 0
stopped         it was asked to stop, and saved
pre-empted      a worker was asked to stop by somebody else (75): again, not counted
bad_spec        78: never again
user, bad_data  the same code on the same data fails again: never again
blow_up         a loss or gradient is not finite, and no batch may be left out (any more): never again
rolled_back     the same, and the batch is left out from now on: again, not counted
disk_full       a disk or a bucket is full: never again by itself
no_capacity     the cluster had no host for some workers, for longer than they are waited for: not again by itself
resized         it stopped to go on with more workers: again, not counted
out_of_memory   with micro-batches of the next smaller size, unless the job gives theirs: again, not counted; else like
infrastructure, hang, unknown
                again, counted, up to cluster.max_restarts; the same death at the same step twice: never again
port            a port was taken between choosing and binding it: again, not counted, PORT_TRIES times in a row
"""

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from textwrap import shorten
from typing import Any

from conf.exit_codes import BAD_SPEC, DONE, STOPPED
from launcher.blame import account, is_consequence, suspect
from launcher.messages import WorkerStatus
from launcher.rendezvous import ranks

PORT_TRIES = 5
PREEMPTIONS_WITHOUT_PROGRESS = 20
LONGEST_BACK_OFF_S = 30.0
LONGEST_MESSAGE = 500  # characters; the log has all of it
DISK_FULL_CURE = "free some space or choose another storage.root; then the same command goes on"
EVALUATING, EXPORTING = "evaluating", "exporting"
TRAINED_PHASES = ("training", "saving", EVALUATING, EXPORTING)
MEMORY_CURE = "trainer.micro_batch=auto trains with what fits, and trainer.rematerialize=blocks needs less"
SMALLEST_CURE = (
    "not even the smallest micro-batches fit: trainer.rematerialize=blocks needs less, and so do smaller images"
)
EVALUATION_CURE = "evaluate fewer at a time: trainer.eval_batch_size"
EXPORT_CURE = "the training is done, and job=export makes it on a host with more memory"
_FULL_WORDS = ("no space left on device", "enospc", "errno 28]", "disk quota exceeded")
#: In Ray's account of an agent's death.
_PREEMPTED_WORDS = ("preempt", "was drained", "draining")
_MEMORY_WORDS = re.compile(r"out of memory|outofmemory|running low on memory|\boom\b")
_ERROR_TYPE = re.compile(r"[\w.]+(?=:)")
_PORT_WORDS = ("address already in use", "could not start grpc server", "errno: 98", "failed to bind")


class Kind(Enum):
    """How an attempt ended."""

    done = "done"
    stopped = "stopped"
    preempted = "preempted"
    bad_spec = "bad_spec"
    user = "user"
    bad_data = "bad_data"
    blow_up = "blow_up"
    rolled_back = "rolled_back"
    disk_full = "disk_full"
    no_capacity = "no_capacity"
    resized = "resized"
    out_of_memory = "out_of_memory"
    infrastructure = "infrastructure"
    hang = "hang"
    port = "port"
    unknown = "unknown"


#: What a worker itself may call its end.
TOLD = (
    Kind.bad_spec,
    Kind.user,
    Kind.bad_data,
    Kind.blow_up,
    Kind.rolled_back,
    Kind.disk_full,
    Kind.out_of_memory,
    Kind.infrastructure,
)
#: Endings that do not count as restarts.
FREE = (Kind.port, Kind.preempted, Kind.resized, Kind.rolled_back)


class Action(Enum):
    """What the controller shall do."""

    finish = "finish"
    restart = "restart"
    give_up = "give_up"


@dataclass(frozen=True)
class Ending:
    """How one attempt ended: the first cause, and what the other ranks said."""

    kind: Kind
    rank: int | None = None  # that died first
    exit_code: int | None = None
    step: int | None = None  # the last one that the rank reported
    first_step: int | None = None  # of this attempt
    message: str = ""
    others: Mapping[int, str] | None = None
    phase: str = ""  # what the rank was doing
    smaller: str = ""  # what the next attempt takes less memory by, where memory ran out
    is_smallest: bool = False  # of what Convoy may choose; memory ran out all the same

    @property
    def made_progress(self) -> bool:
        """Whether the attempt got further than it began."""
        return self.step is not None and self.first_step is not None and self.step > self.first_step

    @property
    def death(self) -> tuple[object, ...] | None:
        """What makes two deaths the same; None for one outside of training, which says little, and for one whose cause
        the next attempt avoids.

        Of the message only the error's type, if it begins with one: the rest may name a rank, a time, or a file of
        the attempt. What a step does may kill one worker or another first; what kills from outside (SIGKILL) is the
        same only if it is the same worker's.
        """
        if self.first_step is None or self.smaller:
            return None
        error = _ERROR_TYPE.match(self.message)
        from_outside = self.kind is Kind.infrastructure and self.exit_code == -signal.SIGKILL
        return self.kind, self.exit_code, self.rank if from_outside else None, self.step, error and error[0]


@dataclass(frozen=True)
class Decision:
    """What to do now, and why in one sentence."""

    action: Action
    reason: str
    counted: bool = False
    delay_s: float = 0.0


def diagnose(statuses: Mapping[int, WorkerStatus], stop_requested: bool, stalled: Sequence[int] = ()) -> Ending:
    """How an attempt ended, from the last status of every rank. `stalled` names ranks that made no progress."""
    step = max((trained_step(status) or 0 for status in statuses.values()), default=0)
    if stalled:
        silent = statuses[stalled[0]]
        culprit = None if silent.suspended else suspect(statuses)  # who waits for another is late before it
        first = culprit or silent
        message = f"no progress from {ranks(stalled)} for {silent.silent_s:.0f} s"
        if first.suspended or culprit is not None:
            message += f"; rank {first.rank}: {account(first)}"
        return Ending(Kind.hang, first.rank, None, trained_step(first), first.first_step, message)
    deaths = [status for status in statuses.values() if status.ended and status.exit_code != DONE]
    if not deaths:
        result: Mapping[str, Any] = next((status.result for status in statuses.values() if status.result), {})
        return Ending(Kind.done, step=max(step, int(result.get("step") or 0)), message=str(result.get("reason") or ""))
    real = [status for status in deaths if status.exit_code != STOPPED]
    if not real:
        kind = Kind.stopped if stop_requested else Kind.preempted
        return Ending(kind, deaths[0].rank, STOPPED, step, deaths[0].first_step, "saved and stopped")
    # A refusal explains more than the deaths that follow from it; else the first in time is the cause.
    first = min(real, key=lambda status: (status.exit_code != BAD_SPEC, is_consequence(status), status.exit_time))
    culprit = suspect(statuses)
    if culprit is not None and (is_consequence(first) or (culprit.suspended and _aborted(first))):
        kind = Kind.hang if culprit.suspended else Kind.infrastructure
        others = {status.rank: explain(status) for status in real}
        told = account(culprit)
        return Ending(kind, culprit.rank, None, trained_step(culprit), culprit.first_step, told, others)
    others = {status.rank: explain(status) for status in real if status is not first}
    told, phase = explain(first), _phase(first)
    at = trained_step(first)
    return Ending(kind_of(first), first.rank, first.exit_code, at, first.first_step, told, others, phase)


def _phase(status: WorkerStatus) -> str:
    """What it was doing. After the last batch of an evaluation it trains again, which is told after some steps."""
    phase, done = str(status.progress.get("phase", "")), status.progress.get("done")
    return "training" if phase == EVALUATING and done and done == status.progress.get("of") else phase


def _aborted(status: WorkerStatus) -> bool:
    """Whether it died by a signal of its own, as TensorFlow does that lost somebody; SIGKILL comes from outside."""
    return (status.exit_code or 0) < 0 and status.exit_code != -signal.SIGKILL


def with_accounts(ending: Ending, statuses: Mapping[int, WorkerStatus]) -> Ending:
    """The ending with what every other rank had told of an error of its own, also those that were killed for it."""
    told = {status.rank: explain(status) for status in statuses.values() if status.error}
    known = dict(ending.others or {})
    return replace(ending, others=known | {r: said for r, said in told.items() if r != ending.rank and r not in known})


def trained_step(status: WorkerStatus) -> int | None:
    """The last optimizer step it reported; None where its steps count something else, as while preparing."""
    return status.step if status.progress.get("phase") in TRAINED_PHASES else None


def kind_of(status: WorkerStatus) -> Kind:
    """The kind of one worker's death."""
    if status.exit_code == BAD_SPEC:
        return Kind.bad_spec
    error = status.error or {}
    if status.lost is not None:
        return _kind_of_loss(status.lost)
    if (status.exit_code or 0) < 0:
        return Kind.out_of_memory if error.get("error_kind") == "out_of_memory" else Kind.infrastructure
    if any(word in str(error.get("message", "")).lower() for word in _PORT_WORDS):
        return Kind.port
    if any(word in str(error.get("message", "")).lower() for word in _FULL_WORDS):
        return Kind.disk_full
    return {kind.value: kind for kind in TOLD}.get(str(error.get("error_kind")), Kind.unknown)


def _kind_of_loss(account: str) -> Kind:
    """What Ray's account of a dead agent or host says of the cause."""
    said = account.lower()
    if any(word in said for word in _PREEMPTED_WORDS):
        return Kind.preempted
    return Kind.out_of_memory if _MEMORY_WORDS.search(said) else Kind.infrastructure


def explain(status: WorkerStatus) -> str:
    """One worker's death in a few words; a refusal whole, for it may list several problems, one a line."""
    if status.error and kind_of(status) is Kind.bad_spec:
        return str(status.error.get("message", "no message"))
    if status.error:
        return shorten(str(status.error.get("message", "no message")), LONGEST_MESSAGE, placeholder=" ...")
    if status.lost:
        return status.lost
    code = status.exit_code or 0
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def decide(endings: Sequence[Ending], max_restarts: int) -> Decision:
    """What to do after the last of these attempts."""
    last = endings[-1]
    who = "" if last.rank is None else f"{ranks([last.rank])}: "
    if last.kind in (Kind.done, Kind.stopped):
        return Decision(Action.finish, last.message or "done")
    if last.kind in (Kind.bad_spec, Kind.user, Kind.bad_data, Kind.blow_up):
        return Decision(Action.give_up, f"{who}{last.message}")
    if last.kind is Kind.rolled_back:  # each time one batch fewer, within a budget that the workers keep
        return Decision(Action.restart, f"{who}{last.message}")
    if last.kind is Kind.no_capacity:
        return Decision(Action.give_up, f"no capacity: {last.message}; the same command goes on when there is")
    if last.kind is Kind.disk_full:
        cure = "" if "free some space" in last.message else f" - {DISK_FULL_CURE}"  # a store names the cure itself
        return Decision(Action.give_up, f"{who}{last.message}{cure}")
    if last.kind is Kind.port:
        return _free(endings, PORT_TRIES, f"{who}a port was taken: {last.message}")
    if last.kind is Kind.resized:
        return _free(endings, PREEMPTIONS_WITHOUT_PROGRESS, last.message)
    if last.kind is Kind.preempted:
        return _free(endings, PREEMPTIONS_WITHOUT_PROGRESS, f"{who}pre-empted, {last.message or 'saved and stopped'}")
    if last.smaller:
        return Decision(Action.restart, f"{who}{last.message}; going on with {last.smaller}")
    cure = f" - {_memory_cure(last)}" if last.kind is Kind.out_of_memory else ""
    if len(endings) > 1 and last.death is not None and last.death == endings[-2].death:
        twice = f"the same death twice at step {last.step}, so another restart would end there too"
        return Decision(Action.give_up, f"{who}{last.message}; {twice}{cure}")
    counted = sum(1 for ending in endings if ending.kind not in FREE and not ending.smaller)
    if counted > max_restarts:
        tries = f"after {max_restarts} restart{'s' * (max_restarts != 1)}" if max_restarts else "cluster.max_restarts=0"
        return Decision(Action.give_up, f"{who}{last.message} ({tries}){cure}")
    return Decision(Action.restart, f"{who}{last.message}", counted=True, delay_s=back_off_s(endings))


def _memory_cure(ending: Ending) -> str:
    if ending.is_smallest:
        return SMALLEST_CURE
    return {EVALUATING: EVALUATION_CURE, EXPORTING: EXPORT_CURE}.get(ending.phase, MEMORY_CURE)


def back_off_s(endings: Sequence[Ending]) -> float:
    """At once after an attempt that got on; else 1, 2, 4 ... s once a restart has not helped."""
    fruitless = 0
    for ending in reversed(endings):
        if ending.made_progress:
            break
        fruitless += 1
    return 0.0 if fruitless <= 1 else min(LONGEST_BACK_OFF_S, 2.0 ** (fruitless - 2))


def _free(endings: Sequence[Ending], limit: int, reason: str) -> Decision:
    """A restart that is not counted, unless it happened `limit` times in a row without progress."""
    in_a_row = 0
    for ending in reversed(endings):
        if ending.kind is not endings[-1].kind or (ending.made_progress and ending is not endings[-1]):
            break
        in_a_row += 1
    if in_a_row > limit:
        return Decision(Action.give_up, f"{reason} ({in_a_row} times in a row)")
    return Decision(Action.restart, reason, delay_s=0.0 if endings[-1].made_progress else back_off_s(endings))
