"""What the controller asks of all workers of a job together; a test's stand-in needs no Ray."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from launcher.messages import AgentReport, Order, WorkerStatus


class Gang(Protocol):
    """All workers of a job, told and asked together. `launcher.group.Group` is the one over Ray."""

    def gather(self, waiting: Callable[[str], bool]) -> list[AgentReport]:
        """The report of every agent that takes part. Raises Absent. `waiting` hears why, while hosts are missing."""

    def room(self) -> int:
        """How many workers a next attempt could have."""

    def leaving(self) -> Sequence[int]:
        """Ranks whose host is about to be taken away."""

    def start(self, orders: Sequence[Order]) -> None:
        """Start one child a rank."""

    def poll(self, timeout_s: float) -> Mapping[int, WorkerStatus]:
        """Each child's newest status."""

    def send(self, line: str) -> None:
        """A line to every living child."""

    def kill(self) -> None:
        """End every child at once."""

    def tail(self, rank: int, lines: int = 20) -> list[str]:
        """The end of a child's log."""


#: Makes the orders of an attempt out of its number and the agents' reports.
Planner = Callable[[int, Sequence[AgentReport]], Sequence[Order]]
