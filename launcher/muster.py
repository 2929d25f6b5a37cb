"""Who is there: an agent on every seat, and those of them that take part in an attempt.

A seat without a host is waited for, `capacity_timeout_s` long; then a job that may goes on with fewer workers. An agent
that has a host and does not answer is waited for `start_timeout_s` long.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from launcher.agent import Agent
from launcher.elastic import largest
from launcher.messages import AgentReport
from launcher.rendezvous import Absent, NoRoom, absent, ranks
from launcher.seats import Seats

RemoteAgent = ray.remote(Agent)
#: An agent that cannot even be made is not made for ever.
AGENT_TRIES = 3
#: How often the seats are looked at.
LOOK_S = 0.5
#: How long a smaller number of seats may take to be found once the whole could not be.
FIND_S = 5.0
#: Hears, again and again, why the muster waits; an answer of false ends it.
Waiting = Callable[[str], bool]


@dataclass(frozen=True)
class Deadlines:
    """How long is waited for what."""

    start_s: float
    capacity_s: float


class Muster:
    """The agents of one job, by seat, and the members of the attempt at hand, by rank."""

    def __init__(self, seats: Seats, deadlines: Deadlines, sizes: Sequence[int] = ()):
        self._seats, self._deadlines = seats, deadlines
        self._sizes = tuple(sizes) or (seats.count,)
        self._agents = [self._new_agent(seat) for seat in range(seats.count)]
        self._calls: dict[ray.ObjectRef, int] = {}
        self._reports: dict[int, AgentReport] = {}
        self._deaths: dict[int, list[str]] = {}
        self._members = list(range(seats.count))
        self._seen: set[int] = set()  # seats whose agents have reported; nobody waits for the others

    @property
    def agents(self) -> list[ActorHandle]:
        """The members' agents, by rank."""
        return [self._agents[seat] for seat in self._members]

    @property
    def seen(self) -> list[ActorHandle]:
        """Agents that have ever answered."""
        return [self._agents[seat] for seat in sorted(self._seen)]

    @property
    def everybody(self) -> list[ActorHandle]:
        """All agents, those without a host too."""
        return self._agents

    def gather(self, waiting: Waiting) -> list[AgentReport]:
        """Reports of all agents, or of as many as are enough, by rank. Dead agents are replaced. Raises Absent."""
        self._leave_draining()
        for forgotten in (self._calls, self._reports, self._deaths):
            forgotten.clear()
        for seat in range(self._seats.count):
            self._call(seat)
        begun = looked = time.monotonic()
        without_host = 0.0
        while True:
            self._hear(LOOK_S)
            missing = [seat for seat in range(self._seats.count) if seat not in self._reports]
            if not missing:
                return self._enlist(list(range(self._seats.count)))
            if any(len(told) >= AGENT_TRIES for told in self._deaths.values()):
                raise self._absent(missing, set(), time.monotonic() - begun)
            vacant = self._seats.vacant() & set(missing)
            now = time.monotonic()
            without_host += now - looked if vacant else 0.0
            looked = now
            if vacant and not waiting(f"{ranks(sorted(vacant))}: {self._seats.why_vacant()}"):
                raise self._absent(missing, vacant, now - begun)
            waited, allowed = now - begun - without_host, self._deadlines.start_s
            if vacant:
                waited, allowed = without_host, self._deadlines.capacity_s
            if waited >= allowed:
                return self._make_do(missing, vacant, now - begun)

    def room(self) -> int:
        """How many workers a next attempt could have."""
        self._hear(0.0)
        return len(self._members) + sum(1 for seat in self._reports if seat not in self._members)

    def leaving(self) -> list[int]:
        """Ranks whose host is about to be taken away."""
        leaving = draining() if self._reports else set()
        known = [(rank, self._reports.get(seat)) for rank, seat in enumerate(self._members)]
        return [rank for rank, report in known if report is not None and report.node in leaving]

    def close(self) -> None:
        """End the agents and give the seats back."""
        for agent in self._agents:
            ray.kill(agent)
        self._seats.close()

    def _enlist(self, seats: list[int]) -> list[AgentReport]:
        self._members = seats
        return [dataclasses.replace(self._reports[seat], rank=rank) for rank, seat in enumerate(seats)]

    def _make_do(self, missing: list[int], vacant: set[int], waited_s: float) -> list[AgentReport]:
        """Go on with those who are there, if they are enough."""
        if len(self._sizes) > 1 and len(missing) == self._seats.count and vacant:
            self._try_smaller()
            missing = [seat for seat in range(self._seats.count) if seat not in self._reports]
        size = largest(self._sizes, len(self._reports))
        if size is None or len(self._sizes) == 1:
            error = self._absent(missing, vacant, waited_s)
            for seat in set(missing) & self._seen - vacant:
                self._renew(seat)
            raise error
        return self._enlist(sorted(self._reports)[:size])

    def _try_smaller(self) -> None:
        """The seats were never there all at once: ask for fewer, the rest one by one."""
        for size in self._sizes[1:]:
            self._seats.regroup(size)
            for seat in range(self._seats.count):
                self._renew(seat)
            if self._seats.wait(FIND_S):
                break
        deadline = time.monotonic() + self._deadlines.start_s
        for seat in range(self._seats.count):
            self._call(seat)
        while largest(self._sizes, len(self._reports)) is None and time.monotonic() < deadline:
            self._hear(LOOK_S)
            if self._seats.vacant() >= set(range(self._seats.count)):
                return

    def _leave_draining(self) -> None:
        """Ray lets a drained host keep its seats until it is gone; ask for others."""
        if self.leaving():
            self._seats.regroup(self._seats.count)
            for seat in range(self._seats.count):
                self._renew(seat)

    def _absent(self, missing: Sequence[int], vacant: set[int], waited_s: float) -> Absent:
        silent = {seat: "its agent was placed and does not answer" for seat in missing}
        reasons = silent | dict.fromkeys(vacant, self._seats.why_vacant())
        reasons |= {seat: told[-1] for seat, told in self._deaths.items() if seat in missing}
        kind = NoRoom if vacant else Absent
        return absent({seat: reasons[seat] for seat in missing}, self._seats.count, round(waited_s, 1), kind)

    def _call(self, seat: int) -> None:
        self._calls[self._agents[seat].describe.remote()] = seat

    def _hear(self, wait_s: float) -> None:
        """Take in what agents answer within `wait_s`; make new ones for the dead."""
        if not self._calls:
            return
        done, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=wait_s)
        for call in done:
            seat = self._calls.pop(call)
            try:
                self._reports[seat] = ray.get(call)
                self._seen.add(seat)
            except RayError as error:
                self._deaths.setdefault(seat, []).append(f"its agent died ({cause(error)})")
                self._agents[seat] = self._new_agent(seat)
                self._call(seat)

    def _renew(self, seat: int) -> None:
        ray.kill(self._agents[seat])
        self._agents[seat] = self._new_agent(seat)

    def _new_agent(self, seat: int) -> ActorHandle:
        return RemoteAgent.options(max_concurrency=8, **self._seats.options(seat)).remote(seat, True)


def draining() -> set[str]:
    """Ids of the hosts that are about to be taken away, as Ray knows them."""
    return set(ray._private.state.state.get_draining_nodes())


def cause(error: RayError) -> str:
    """The line of Ray's long account that names the exception, else its first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"\w+(Error|Exception): ", line)]
    return (named or lines or [type(error).__name__])[-1 if named else 0]
