"""The gang: one agent a worker, placed by Ray. Start, poll, send, kill: always all of them together."""

import contextlib
import dataclasses
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from launcher.agent import Agent
from launcher.messages import AgentReport, Order, WorkerStatus
from launcher.placement import Host, Placement
from launcher.rendezvous import absent

RemoteAgent = ray.remote(Agent)
#: An agent answers at once when it is told to kill; one that does not is killed itself.
#: An agent that cannot even be made is not made for ever.
AGENT_TRIES = 3
ANSWER_S = 5.0
UPLOAD_S = 60.0
#: How long an agent holds back a poll that has no news.
HOLD_S = 0.25
#: Most that one poll adds to an agent's silence: while this process itself stood still nobody could be heard.
LONGEST_POLL_S = 2.0


class Bundles:
    """Seats for workers: what each of them computes with, reserved for all of them together."""

    def __init__(self, placement: Placement):
        self.count = placement.num_workers
        self._placement = placement
        strategy = "PACK" if placement.gpus else "SPREAD"
        self._reserved = placement_group([placement.bundle] * placement.num_workers, strategy=strategy)

    def options(self, rank: int) -> dict[str, Any]:
        """Ray's options for the agent of this rank."""
        where = PlacementGroupSchedulingStrategy(self._reserved, placement_group_bundle_index=rank)
        return {"num_cpus": self._placement.cpus, "num_gpus": self._placement.gpus, "scheduling_strategy": where}

    def why_silent(self) -> str:
        """Why an agent may not have answered."""
        if self._reserved.wait(timeout_seconds=0):
            return "its agent was placed and does not answer"
        return f"Ray has no host with {self._placement.bundle} free for it"

    def close(self) -> None:
        """Give back what is reserved."""
        remove_placement_group(self._reserved)


class Hosts:
    """A seat on each of these hosts. Nothing is reserved: it would be taken from the workers of the same job."""

    def __init__(self, hosts: Sequence[Host]):
        self.count = len(hosts)
        self._hosts = hosts

    def options(self, rank: int) -> dict[str, Any]:
        """Ray's options for the agent of this rank."""
        return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(self._hosts[rank].node_id, False)}

    def why_silent(self) -> str:
        """Why an agent may not have answered."""
        return f"no answer from its host, one of {', '.join(host.name for host in self._hosts)}"

    def close(self) -> None:
        """Nothing is reserved."""


class Group:
    """The agents of one job. They outlive their children: a restart starts new children, not new agents."""

    def __init__(self, seats: "Bundles | Hosts", start_timeout_s: float):
        self._seats = seats
        self._timeout_s = start_timeout_s
        self._agents = [self._new_agent(rank) for rank in range(seats.count)]
        self._polls: dict[ray.ObjectRef, int] = {}
        self._statuses: dict[int, WorkerStatus] = {}
        self._unheard: dict[int, float] = {}  # for how long each agent has not answered a poll
        self._polled = 0.0
        self._seen: set[int] = set()  # agents that have reported; nobody waits for the others

    def gather(self) -> list[AgentReport]:
        """Every agent's report, by rank. Dead agents are replaced. Raises Absent with the names of the missing."""
        deadline = time.monotonic() + self._timeout_s
        reports: dict[int, AgentReport] = {}
        deaths: dict[int, list[str]] = {}
        while missing := [rank for rank in range(len(self._agents)) if rank not in reports]:
            calls = {self._agents[rank].describe.remote(): rank for rank in missing}
            left = max(0.0, deadline - time.monotonic())
            done, silent = ray.wait(list(calls), num_returns=len(calls), timeout=left)
            for call in done:
                self._take_report(calls[call], call, reports, deaths)
            hopeless = any(len(told) >= AGENT_TRIES for told in deaths.values())
            if hopeless or (len(reports) < len(self._agents) and time.monotonic() >= deadline):
                reasons = {calls[call]: self._seats.why_silent() for call in silent}
                self._replace({calls[call] for call in silent} & self._seen)
                reasons |= {rank: told[-1] for rank, told in deaths.items() if rank not in reports}
                waited = self._timeout_s - max(0.0, deadline - time.monotonic())
                raise absent(reasons, len(self._agents), round(waited, 1))
        return [reports[rank] for rank in range(len(self._agents))]

    def start(self, orders: Sequence[Order]) -> None:
        """Start one child with each of the first agents, as many as there are orders."""
        self._polls.clear()
        self._statuses.clear()
        calls = [agent.start.remote(order) for agent, order in zip(self._agents, orders, strict=False)]
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=ANSWER_S)
        for call in done:
            with contextlib.suppress(RayActorError):  # what became of an agent its polls will tell, or their silence
                ray.get(call)
        self._polled = time.monotonic()
        for rank in range(len(orders)):
            self._statuses[rank] = WorkerStatus(rank, started=True)
            self._ask(rank, 0.0)

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
            self._statuses[rank] = self._status(rank, call)
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
        calls = [self._agents[rank].close.remote() for rank in self._seen]
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=UPLOAD_S)
        # In a thread: with Ray's head gone these calls would wait a minute for it, and then Ray ends this process.
        giving_back = threading.Thread(target=self._give_back, name="give back", daemon=True)
        giving_back.start()
        giving_back.join(ANSWER_S)

    def _give_back(self) -> None:
        for agent in self._agents:
            ray.kill(agent)
        self._seats.close()

    def _new_agent(self, rank: int) -> ActorHandle:
        return RemoteAgent.options(max_concurrency=8, **self._seats.options(rank)).remote(rank)

    def _replace(self, ranks: Iterable[int]) -> None:
        """New agents for those that answered once and do not any more, such as frozen ones."""
        for rank in ranks:
            ray.kill(self._agents[rank])
            self._agents[rank] = self._new_agent(rank)

    def _take_report(
        self, rank: int, call: ray.ObjectRef, reports: dict[int, AgentReport], deaths: dict[int, list[str]]
    ) -> None:
        try:
            reports[rank] = ray.get(call)
            self._seen.add(rank)
        except RayError as error:
            deaths.setdefault(rank, []).append(f"its agent died ({_cause(error)})")
            self._agents[rank] = self._new_agent(rank)

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
                lost=f"its agent died ({_cause(error)})",
                exit_time=time.time(),
                progress=last.progress,
                first_step=last.first_step,
                error=last.error,
            )


def _without_events(status: WorkerStatus) -> WorkerStatus:
    return dataclasses.replace(status, events=()) if status.events else status


def _cause(error: RayError) -> str:
    """The line of Ray's long account that names the exception, else its first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"\w+(Error|Exception): ", line)]
    return (named or lines or [type(error).__name__])[-1 if named else 0]
