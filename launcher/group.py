"""The gang: one agent a worker, placed by Ray. Start, poll, send, kill: always all of them together."""

import dataclasses
import threading
import time
from collections.abc import Mapping, Sequence

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from launcher.messages import AgentReport, Order, WorkerStatus
from launcher.muster import Muster, Waiting, cause

#: An agent answers at once when it is told to kill; one that does not is killed itself.
ANSWER_S = 5.0
UPLOAD_S = 60.0
#: How long an agent holds back a poll that has no news.
HOLD_S = 0.25
#: Most that one poll adds to an agent's silence: while this process itself stood still nobody could be heard.
LONGEST_POLL_S = 2.0


class Group:
    """The agents of one job. They outlive their children: a restart starts new children, not new agents."""

    def __init__(self, muster: Muster):
        self._muster = muster
        self._polls: dict[ray.ObjectRef, int] = {}
        self._statuses: dict[int, WorkerStatus] = {}
        self._unheard: dict[int, float] = {}  # for how long each agent has not answered a poll
        self._polled = 0.0

    def gather(self, waiting: Waiting = lambda _: True) -> list[AgentReport]:
        """The reports of the agents that take part, by rank. Raises Absent with the names of the missing."""
        return self._muster.gather(waiting)

    def room(self) -> int:
        """How many workers a next attempt could have."""
        return self._muster.room()

    def leaving(self) -> list[int]:
        """Ranks whose host is about to be taken away."""
        return self._muster.leaving()

    @property
    def _agents(self) -> list[ActorHandle]:
        return self._muster.agents

    def start(self, orders: Sequence[Order]) -> None:
        """Start one child with each of the first agents, as many as there are orders."""
        self._polls.clear()
        self._statuses.clear()
        calls = [agent.start.remote(order) for agent, order in zip(self._agents, orders, strict=False)]
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=ANSWER_S)
        self._polled = time.monotonic()
        for rank, call in enumerate(calls):
            self._statuses[rank] = WorkerStatus(rank, started=True)
            why = _refusal(call) if call in done else None
            if why is None:  # what became of an agent that does not answer its polls will tell, or their silence
                self._ask(rank, 0.0)
            else:
                self._statuses[rank] = WorkerStatus(rank, started=True, lost=why, exit_time=time.time())

    def poll(self, timeout_s: float) -> Mapping[int, WorkerStatus]:
        """Each child's newest status: as soon as one agent has news, or after `timeout_s`.

        Events are in the status of one answer alone. An agent that does not answer makes its worker a silent one.
        """
        self._statuses = {rank: _without_events(status) for rank, status in self._statuses.items()}
        if not self._polls:
            return self._statuses
        done, _ = ray.wait(list(self._polls), num_returns=1, timeout=timeout_s)
        if done:
            done, _ = ray.wait(list(self._polls), num_returns=len(self._polls), timeout=0)
        for call in done:
            rank = self._polls.pop(call)
            self._statuses[rank] = dataclasses.replace(self._status(rank, call), rank=rank)
            if not self._statuses[rank].ended:
                self._ask(rank, HOLD_S)
        return self._aged()

    def send(self, line: str) -> None:
        """A line into every living child's control pipe."""
        for rank, status in self._statuses.items():
            if not status.ended:
                self._agents[rank].send.remote(line)

    def kill(self) -> None:
        """SIGKILL to every child, all at once; returns when they are gone, or their agents with them."""
        calls = {self._agents[rank].kill.remote(): rank for rank in self._statuses}
        _, pending = ray.wait(list(calls), num_returns=len(calls), timeout=ANSWER_S)
        for call in pending:
            ray.kill(self._agents[calls[call]])

    def tail(self, rank: int, lines: int = 20) -> list[str]:
        """The last lines of a child's log, as far as its agent can still say."""
        try:
            return list(ray.get(self._agents[rank].tail.remote(lines), timeout=ANSWER_S))
        except (RayError, GetTimeoutError):
            return []

    def close(self) -> None:
        """Kill the children, let the logs be uploaded, kill the agents, and give the resources back."""
        calls = [agent.close.remote() for agent in self._muster.seen]
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=UPLOAD_S)
        # In a thread: with Ray's head gone these calls would wait a minute for it, and then Ray ends this process.
        giving_back = threading.Thread(target=self._muster.close, name="give back", daemon=True)
        giving_back.start()
        giving_back.join(ANSWER_S)

    def _ask(self, rank: int, wait_s: float) -> None:
        self._unheard[rank] = 0.0
        self._polls[self._agents[rank].poll.remote(wait_s)] = rank

    def _aged(self) -> dict[int, WorkerStatus]:
        """The statuses, those of agents that have not answered as old as they are."""
        now = time.monotonic()
        passed, self._polled = min(now - self._polled, LONGEST_POLL_S), now
        aged = dict(self._statuses)
        for rank in self._polls.values():
            self._unheard[rank] += passed
            status, unheard = aged[rank], self._unheard[rank]
            aged[rank] = dataclasses.replace(status, unheard_s=unheard, silent_s=status.silent_s + unheard)
        return aged

    def _status(self, rank: int, call: ray.ObjectRef) -> WorkerStatus:
        try:
            return ray.get(call)
        except RayError as error:
            last = self._statuses[rank]
            return WorkerStatus(
                rank,
                started=True,
                lost=f"its agent died ({cause(error)})",
                exit_time=time.time(),
                progress=last.progress,
                first_step=last.first_step,
                error=last.error,
            )


def _without_events(status: WorkerStatus) -> WorkerStatus:
    return dataclasses.replace(status, events=()) if status.events else status


def _refusal(call: ray.ObjectRef) -> str | None:
    """Why an agent that lives did not start its worker."""
    try:
        ray.get(call)
    except RayActorError:
        return None
    except RayError as error:
        return f"its agent could not start a worker ({cause(error)})"
    return None
