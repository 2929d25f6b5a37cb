"""The one door to the modules that import Ray, so that help, plans and refusals do not pay for it.

Ray reads its environment while it is imported; here is where it gets it.
"""

import contextlib
import importlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from conf.errors import BadSpec
from conf.schema import ClusterSpec
from launcher.child import ROOT
from launcher.machine import this_machine
from launcher.placement import Host, Placement, place, ray_cpus, shape
from launcher.reach import check_answers

if TYPE_CHECKING:
    from launcher.group import Group
    from launcher.seats import Seats


def local_placement(cluster: ClusterSpec) -> Placement | None:
    """Where the workers go on this machine; refuses at once. None where a running cluster has to be asked."""
    return place(cluster, [this_machine()], own_ray=True) if cluster.address is None else None


def refuse_at_once(cluster: ClusterSpec) -> None:
    """Raise BadSpec, before anything is written, where this machine has no room or no cluster is at the address."""
    if local_placement(cluster) is None:
        check_answers(str(cluster.address))


def planned_placement(cluster: ClusterSpec) -> tuple[Placement | None, BadSpec | None]:
    """The same for a plan, which may be of another machine: with the refusal that a real job would get here."""
    try:
        return local_placement(cluster), None
    except BadSpec as error:
        return shape(cluster, [this_machine()]), error


class NoRay(Exception):
    """A Ray of our own could not be started."""


@contextlib.contextmanager
def connected(cluster: ClusterSpec, tell: Callable[[str], None] = lambda _: None) -> Iterator[Placement]:
    """Connect to Ray, our own or the one at `cluster.address`, and say where the workers go.

    `tell` hears, from a thread, when a server of our own Ray dies.
    """
    placement = local_placement(cluster)
    if placement is not None:
        prepare_own_ray()
        with importlib.import_module("launcher.connect").own_ray(
            ray_cpus(placement), placement.num_workers * placement.gpus, tell
        ):
            yield placement
        return
    quiet()
    connect = importlib.import_module("launcher.connect")
    with connect.running_ray(cluster.address):
        yield place(cluster, connect.hosts(), own_ray=False)


def hosts_of(cluster: ClusterSpec) -> list[Host]:
    """This machine, or the hosts of the running cluster at `cluster.address`."""
    if cluster.address is None:
        return [this_machine()]
    refuse_at_once(cluster)
    quiet()
    connect = importlib.import_module("launcher.connect")
    with connect.running_ray(cluster.address):
        return list(connect.hosts())


@contextlib.contextmanager
def grouped(
    placement: Placement, start_timeout_s: float, capacity_timeout_s: float | None = None, sizes: Sequence[int] = ()
) -> Iterator["Group"]:
    """The agents of a placement, ended when the block is left. `sizes`: so many workers are enough."""
    seats = importlib.import_module("launcher.seats").Bundles(placement)
    with _mustered(seats, start_timeout_s, capacity_timeout_s, sizes) as group:
        yield group


@contextlib.contextmanager
def _mustered(
    seats: "Seats", start_timeout_s: float, capacity_timeout_s: float | None = None, sizes: Sequence[int] = ()
) -> Iterator["Group"]:
    module = importlib.import_module("launcher.muster")
    deadlines = module.Deadlines(start_timeout_s, start_timeout_s if capacity_timeout_s is None else capacity_timeout_s)
    group = importlib.import_module("launcher.group").Group(module.Muster(seats, deadlines, sizes))
    try:
        yield group
    finally:
        group.close()


@contextlib.contextmanager
def host_group(paths: Sequence[str], start_timeout_s: float) -> Iterator["Group | None"]:
    """An agent on each host of the connected cluster that has all these paths; None where that is no more than one."""
    hosts = importlib.import_module("launcher.connect").hosts_with(*paths)
    if len(hosts) < 2:
        yield None
        return
    with _mustered(importlib.import_module("launcher.seats").Hosts(hosts), start_timeout_s) as group:
        yield group


def prepare_own_ray() -> None:
    """The environment of a Ray of our own: every socket on loopback, a token nobody else has, no reports home."""
    os.environ.pop("RAY_ADDRESS", None)
    # Ray's workers have to find the agent's module, wherever the driver was started.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        dict.fromkeys([ROOT, *os.environ.get("PYTHONPATH", ROOT).split(os.pathsep)])
    )
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    quiet()
    # Ray would run its workers, and their children, at nice 15. It spells the name like this.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    # Ray forgets a process of its own that took longer to start (60 s), and then the driver waits for it for ever.
    os.environ["RAY_worker_register_timeout_seconds"] = "600"  # noqa: SIM112
    os.environ["RAY_AUTH_MODE"] = "token"
    # Without a token in the environment Ray would leave one in the home directory.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def quiet() -> None:
    """No reports home, and no words of Ray's own between ours: what a raylet has to say of dead workers, we say."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = "."
