"""Observe, decide, act: attempts of one job until it is done, stopped or given up.

The group is asked through a small protocol, so that the loop can be tested without Ray.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from conf import exit_codes
from conf.schema import ClusterSpec
from launcher.blame import PATIENCE_S, is_unexplained
from launcher.capacity import Capacity
from launcher.chronicle import Chronicle
from launcher.console import Console
from launcher.gang import Gang, Planner
from launcher.interrupts import Interrupts
from launcher.journal import Journal
from launcher.messages import WorkerStatus
from launcher.patience import patience_s, stalled
from launcher.recovery import Action, Decision, Ending, Kind, decide, diagnose, with_accounts
from launcher.rendezvous import Absent, NoRoom, ranks
from launcher.turnover import Leaving, Turnover

POLL_S = 0.5
STACKS_S = 2.0  # what a stalled worker gets for writing its stacks
ACCOUNTS_S = 2.0  # what agents get for telling the last of workers that were killed, where the job is given up


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    state: str  # succeeded | failed | stopped
    attempts: int
    step: int
    reason: str
    exit_code: int
    rank: int | None = None
    log_tail: Sequence[str] = ()
    others: Mapping[int, str] = field(default_factory=dict)


class Controller:
    """Runs attempts, one after the other, and writes down what happens."""

    def __init__(
        self,
        cluster: ClusterSpec,
        gang: Gang,
        planner: Planner,
        journal: Journal,
        console: Console,
        interrupts: Interrupts,
        is_preparing: bool = False,
        sizes: Sequence[int] = (),
        after: Callable[[int, Ending], Ending] = lambda _, ending: ending,
    ):
        self._after = after
        self._cluster = cluster
        self._gang = gang
        self._planner = planner
        self._journal = journal
        self._console = console
        self._interrupts = interrupts
        # Nothing of an unfinished preparation is worth saving: a stop ends it at once.
        self._is_preparing = is_preparing
        self._grace_s = 0.0 if is_preparing else cluster.grace_s
        self._chronicle = Chronicle(cluster.grace_s, journal, console, is_preparing)
        self._capacity = Capacity(journal, console)
        leaving = gang.leaving if cluster.address is not None and not is_preparing else None
        self._turnover = Turnover(() if is_preparing else sizes, gang.room, leaving)

    def run(self, first_attempt: int) -> Outcome:
        """Attempts until a decision ends them."""
        endings: list[Ending] = []
        attempt = first_attempt
        while True:
            try:
                ending = self._after(attempt, self._attempt(attempt))
            except KeyboardInterrupt:
                if self._interrupts.kills_at_once:
                    raise
                reason = "Ctrl-C twice: killed without saving; the last checkpoint stands"
                return Outcome("stopped", attempt, self._chronicle.step, reason, exit_codes.INTERRUPTED)
            endings.append(ending)
            decision = decide(endings, self._cluster.max_restarts)
            if decision.action is Action.give_up and ending.rank is not None:
                ending = with_accounts(ending, self._accounts())
            told = {"kind": ending.kind.value, "reason": decision.reason, "others": dict(ending.others or {})}
            told |= self._chronicle.spent
            self._journal.event("attempt_ended", attempt, ending.rank, **told)
            if decision.action is not Action.restart or self._interrupts.reason:
                return self._outcome(ending, decision, attempt)
            attempt = self._journal.attempt_after(attempt)
            self._tell_restart(attempt, ending, decision)

    def _attempt(self, attempt: int) -> Ending:
        """Gather, start, watch; afterwards nothing of it is alive."""
        try:
            reports = self._gang.gather(lambda why: self._capacity.missing(attempt, why) and not self._wants_stop())
        except Absent as error:
            kind = Kind.no_capacity if isinstance(error, NoRoom) else Kind.infrastructure
            return self._stopped_early() or Ending(kind, message=str(error))
        if ending := self._stopped_early():
            return ending
        self._capacity.settle(attempt, len(reports), len(reports) if self._is_preparing else self._cluster.workers)
        self._interrupts.workers_start()
        self._chronicle.begin()
        orders = self._planner(attempt, reports)
        self._turnover.begin(len(orders))
        self._gang.start(orders)
        hosts = [report.host for report in reports]
        self._journal.event("attempt_started", attempt, module=orders[0].module, workers=len(orders), hosts=hosts)
        try:
            return self._watch(attempt)
        finally:
            # Survivors cannot go on without the dead; waiting for them to notice costs seconds.
            self._gang.kill()
            self._console.rest()

    def _accounts(self) -> Mapping[int, WorkerStatus]:
        """The last statuses, with what the workers had told that were killed with the first of them."""
        deadline = time.monotonic() + ACCOUNTS_S
        statuses = self._gang.poll(0.0)
        while not all(status.ended for status in statuses.values()) and time.monotonic() < deadline:
            statuses = self._gang.poll(0.1)
        return statuses

    def _stopped_early(self) -> Ending | None:
        early = "stopped before the workers were started"
        return Ending(Kind.stopped, message=early) if self._interrupts.reason else None

    def _watch(self, attempt: int) -> Ending:
        asked: float | None = None
        leaving: Leaving | None = None
        while True:
            statuses = self._gang.poll(POLL_S)
            self._chronicle.note(attempt, statuses)
            if all(status.exit_code == exit_codes.DONE for status in statuses.values()):
                return diagnose(statuses, stop_requested=False)
            if self._has_failed(statuses):
                ending = diagnose(self._with_cause(attempt, statuses), asked is not None and leaving is None)
                if leaving is not None and ending.kind is Kind.preempted:
                    return replace(ending, rank=None, kind=leaving.kind, message=leaving.message)
                return self._out_of_grace(attempt) if self._is_preparing and ending.kind is Kind.stopped else ending
            if self._wants_stop() and (asked is None or leaving is not None):
                asked, leaving = self._ask_to_stop(attempt), None
            if asked is None and (leaving := self._turnover.due(statuses)):
                asked = self._ask_to_leave(attempt, leaving)
            if asked is not None and time.monotonic() - asked > self._grace_s:
                return self._out_of_grace(attempt, leaving)
            if late := stalled(self._cluster, statuses):
                return self._end_hang(attempt, statuses, late)

    def _has_failed(self, statuses: Mapping[int, WorkerStatus]) -> bool:
        """One death ends the attempt, except while all are stopping: there each may take its time."""
        ended = [status for status in statuses.values() if status.ended]
        if any(status.exit_code not in (exit_codes.DONE, exit_codes.STOPPED) for status in ended):
            return True
        return len(ended) == len(statuses)

    def _with_cause(self, attempt: int, statuses: Mapping[int, WorkerStatus]) -> Mapping[int, WorkerStatus]:
        """The statuses after a moment in which the cause may show, where all that ended have lost somebody."""
        deadline = time.monotonic() + PATIENCE_S
        while is_unexplained(statuses) and time.monotonic() < deadline:
            statuses = self._gang.poll(POLL_S)
            self._chronicle.note(attempt, statuses)
        return statuses

    def _wants_stop(self) -> bool:
        if self._interrupts.reason is None and self._journal.stop_requested():
            self._interrupts.request("job=stop")
        return self._interrupts.reason is not None

    def _ask_to_stop(self, attempt: int) -> float:
        self._journal.event("stop_requested", attempt, reason=self._interrupts.reason)
        saving = f"saving, at most {self._grace_s:g} s; Ctrl-C again kills at once"
        self._console.say(f"{self._interrupts.reason}: {saving if self._grace_s else 'stopping'}")
        self._gang.send("stop")
        return time.monotonic()

    def _ask_to_leave(self, attempt: int, leaving: Leaving) -> float:
        self._journal.event("leaving", attempt, kind=leaving.kind.value, reason=leaving.message)
        self._console.say(f"{leaving.message}: saving, at most {self._grace_s:g} s")
        self._gang.send("stop")
        return time.monotonic()

    def _out_of_grace(self, attempt: int, leaving: Leaving | None = None) -> Ending:
        if self._is_preparing:
            return Ending(Kind.stopped, message="stopped while preparing; the same command goes on")
        if not self._grace_s:
            return Ending(Kind.stopped, message="stopped before it was done")
        message = f"not saved within cluster.grace_s={self._cluster.grace_s:g}; the last checkpoint stands"
        self._journal.event("grace_exceeded", attempt, grace_s=self._cluster.grace_s)
        if leaving is not None:
            return Ending(leaving.kind, step=self._chronicle.step, message=f"{leaving.message}; {message}")
        return Ending(Kind.stopped, step=self._chronicle.step, message=message)

    def _end_hang(self, attempt: int, statuses: Mapping[int, WorkerStatus], late: list[int]) -> Ending:
        first = statuses[late[0]]
        allowed = patience_s(self._cluster, first)
        self._journal.event("hang", attempt, late[0], ranks=late, silent_s=first.silent_s, allowed_s=allowed)
        self._console.say(f"no sign from {ranks(late)}: their stacks go into {self._journal.folder(attempt)}")
        self._gang.send("dump stacks")
        time.sleep(STACKS_S)
        return diagnose(statuses, stop_requested=False, stalled=late)

    def _tell_restart(self, attempt: int, ending: Ending, decision: Decision) -> None:
        wait = f" in {decision.delay_s:g} s" if decision.delay_s else ""
        free = "" if decision.counted else " (not counted)"
        where = "where it stopped" if self._is_preparing else "from the last checkpoint"
        self._console.say(f"{decision.reason}; starting again{wait} {where}{free}")
        self._journal.event("restart", attempt, ending.rank, reason=decision.reason, counted=decision.counted)
        until = time.monotonic() + decision.delay_s
        while time.monotonic() < until and not self._wants_stop():
            time.sleep(0.05)

    def _outcome(self, ending: Ending, decision: Decision, attempt: int) -> Outcome:
        step = ending.step or self._chronicle.step
        if ending.kind is Kind.done:
            return Outcome("succeeded", attempt, step, ending.message or "done", exit_codes.DONE)
        if self._interrupts.reason and decision.action is not Action.give_up:
            reason = f"{self._interrupts.reason}: {decision.reason}"
            return Outcome("stopped", attempt, step, reason, self._interrupts.exit_code)
        # A full disk is the user's to mend too, and no restart does it.
        refused = ending.kind in (Kind.bad_spec, Kind.disk_full)
        code = exit_codes.BAD_SPEC if refused else exit_codes.FAILED
        tail = self._gang.tail(ending.rank) if ending.rank is not None and _is_explained_by_log(ending) else ()
        step = max(ending.step or 0, self._chronicle.step)
        return Outcome("failed", attempt, step, decision.reason, code, ending.rank, tail, ending.others or {})


def _is_explained_by_log(ending: Ending) -> bool:
    """Whether the log says more than the message: a bug's traceback, or the last words before a signal."""
    return ending.kind in (Kind.user, Kind.unknown) or (ending.exit_code or 0) < 0
