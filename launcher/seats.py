"""Seats for agents in a Ray cluster: where each may sit, and which have no host at the moment."""

from collections.abc import Sequence
from typing import Any, Protocol

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from launcher.placement import Host, Placement


class Seats(Protocol):
    """What `launcher.muster` asks of them."""

    count: int

    def options(self, seat: int) -> dict[str, Any]:
        """Ray's options for the agent of this seat."""

    def vacant(self) -> set[int]:
        """Seats that no host offers now."""

    def regroup(self, together: int) -> None:
        """Ask for other places: the first `together` seats at once or not at all, each of the rest by itself."""

    def wait(self, timeout_s: float) -> bool:
        """Whether the seats that belong together are there, after at most `timeout_s`."""

    def why_vacant(self) -> str:
        """What is missing."""

    def close(self) -> None:
        """Give back what is reserved."""


class Bundles:
    """What each worker computes with, reserved for all of them together. Ray gives a lost one a new host by itself."""

    def __init__(self, placement: Placement):
        self.count = placement.num_workers
        self._placement = placement
        self._places: list[tuple[PlacementGroup, int]] = []
        self.regroup(self.count)

    def options(self, seat: int) -> dict[str, Any]:
        """Ray's options for the agent of this seat."""
        group, index = self._places[seat]
        where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
        return {"num_cpus": self._placement.cpus, "num_gpus": self._placement.gpus, "scheduling_strategy": where}

    def vacant(self) -> set[int]:
        """Seats whose bundle has no living host; nobody is placed on one that is being drained."""
        usable = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        tables = {group.id: placement_group_table(group) for group in self._groups}
        return {
            seat
            for seat, (group, index) in enumerate(self._places)
            if tables[group.id].get("state") == "PENDING"
            or tables[group.id].get("bundles_to_node_id", {}).get(index) not in usable
        }

    def regroup(self, together: int) -> None:
        """Ask for other places: the first `together` seats at once or not at all, each of the rest by itself."""
        self.close()
        strategy = "PACK" if self._placement.gpus else "SPREAD"
        bundle = self._placement.bundle
        first = placement_group([bundle] * together, strategy=strategy)
        rest = [placement_group([bundle], strategy=strategy) for _ in range(self.count - together)]
        self._places = [(first, index) for index in range(together)] + [(group, 0) for group in rest]

    def wait(self, timeout_s: float) -> bool:
        """Whether the seats that belong together are there, after at most `timeout_s`."""
        return bool(self._places[0][0].wait(timeout_seconds=timeout_s))

    def why_vacant(self) -> str:
        """What is missing."""
        return f"Ray has no host with {self._placement.bundle} free for it"

    def close(self) -> None:
        """Give back what is reserved."""
        for group in self._groups:
            remove_placement_group(group)
        self._places = []

    @property
    def _groups(self) -> list[PlacementGroup]:
        return list({group.id: group for group, _ in self._places}.values())


class Hosts:
    """A seat on each of these hosts. Nothing is reserved: it would be taken from the workers of the same job."""

    def __init__(self, hosts: Sequence[Host]):
        self.count = len(hosts)
        self._hosts = hosts

    def options(self, seat: int) -> dict[str, Any]:
        """Ray's options for the agent of this seat."""
        return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(self._hosts[seat].node_id, False)}

    def vacant(self) -> set[int]:
        """None: a host that is gone does not come back under its name."""
        return set()

    def regroup(self, together: int) -> None:
        """There are no other places."""

    def wait(self, timeout_s: float) -> bool:
        """They are where they are."""
        return True

    def why_vacant(self) -> str:
        """What is missing."""
        return f"no answer from its host, one of {', '.join(host.name for host in self._hosts)}"

    def close(self) -> None:
        """Nothing is reserved."""
