"""A Ray of our own on loopback, started and removed without a trace, or one that is running already.

Imported by `launcher/gate.py` alone, which first sets the environment that Ray reads while it is imported.
"""

import contextlib
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from conf.errors import BadSpec
from conf.exit_codes import FAILED
from launcher.child import ROOT
from launcher.folders import SHORT, abandoned, signed
from launcher.gate import NoRay
from launcher.placement import Host
from launcher.ray_watch import RayWatch, servers_of
from launcher.reach import CURE

logger = logging.getLogger(__name__)
PREFIX = "convoy-ray-"
#: The longest path below Ray's folder, but for the numbers in it.
SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
START_TRIES = 2
#: Ray has deadlines of its own for most of what happens in its start, and none for all of it.
START_S = 300.0
FAREWELL_S = 0.1
QUIET_S = 5.0
#: A host that has not looked for a path by then is taken for one that does not have it.
LOOK_S = 30.0


@contextlib.contextmanager
def own_ray(num_cpus: int, num_gpus: int, tell: Callable[[str], None]) -> Iterator[None]:
    """A Ray for this process alone: loopback, a token of its own, a private folder; nothing is left of it.

    `tell` hears from a thread, in one sentence, when one of its servers dies.
    """
    sweep()
    folder = signed(PREFIX, SOCKET)
    try:
        _start(folder, num_cpus, num_gpus)
        with RayWatch(servers_of(processes_of(folder)), tell):
            yield
    finally:
        _stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running_ray(address: str) -> Iterator[None]:
    """The Ray cluster at `address`; left running."""
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": {"PYTHONPATH": ROOT}},
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadSpec.of("cluster.address", address, f"no Ray cluster answers there: {first}", CURE) from error
    try:
        yield
    finally:
        ray.shutdown()


def hosts() -> list[Host]:
    """What the connected cluster has."""
    return [
        Host(
            node["NodeManagerHostname"],
            node["Resources"].get("CPU", 0),
            int(node["Resources"].get("GPU", 0)),
            node["NodeID"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def hosts_with(*paths: str) -> list[Host]:
    """The hosts of the connected cluster on which there is something at each of `paths`."""
    calls = {_look(host, paths): host for host in hosts()}
    done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=LOOK_S)
    return sorted((calls[call] for call in done if _found(call)), key=lambda host: host.node_id)


def _look(host: Host, paths: Sequence[str]) -> ray.ObjectRef:
    where = NodeAffinitySchedulingStrategy(host.node_id, soft=False)
    return ray.remote(_all_exist).options(num_cpus=0, scheduling_strategy=where).remote(list(paths))


def _all_exist(paths: list[str]) -> bool:
    return all(map(os.path.exists, paths))


def _found(call: ray.ObjectRef) -> bool:
    try:
        return bool(ray.get(call))
    except RayError:
        return False  # such as a host that has just gone


def sweep() -> None:
    """Remove what drivers left that died before they could: their processes are gone, their folders are not."""
    for folder in abandoned(PREFIX, SHORT):
        _kill(str(folder))
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: str, num_cpus: int, num_gpus: int) -> None:
    deadline = threading.Timer(START_S, _give_up, [folder])
    deadline.daemon = True
    deadline.start()
    try:
        _try_to_start(folder, num_cpus, num_gpus)
    finally:
        deadline.cancel()


def _give_up(folder: str) -> None:
    """End this process, whose main thread waits inside of Ray, where nothing else can wake it up."""
    why = "Ray did not start on this machine within %.0f s - free some of its cores, then the same command goes on"
    logger.error(why, START_S)
    _kill(folder)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(FAILED)


def _try_to_start(folder: str, num_cpus: int, num_gpus: int) -> None:
    for attempt in range(1, START_TRIES + 1):
        try:
            with _held_back(signal.SIGTERM):
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    num_gpus=num_gpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                    _temp_dir=folder,
                )
            return
        except Exception as error:  # Ray raises a bare one where its node was too slow
            # Ray waits 30 s for its raylet, hard-coded; a loaded machine may need more.
            _stop(folder)
            if attempt == START_TRIES:
                first = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise NoRay(f"Ray did not start on this machine, tried {START_TRIES} times: {first}") from error
            logger.warning("Ray did not start in time, trying once more: %s", error)


@contextlib.contextmanager
def _held_back(number: signal.Signals) -> Iterator[None]:
    """Processes begun here do not hear the signal: they inherit the mask of the thread that begins them.

    Who stops a job by signalling its process group, as `timeout` and service managers do, means the driver; Ray's
    servers would end under the workers while those save. Another thread of the driver still takes the signal.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop(folder: str) -> None:
    """End our Ray. While it says its farewells, which take a second, its processes are killed under its hands."""
    killer = threading.Timer(FAREWELL_S, _kill, [folder])
    killer.start()
    ray.shutdown()
    killer.join()


def _kill(folder: str) -> None:
    """SIGKILL to every process of the Ray session in `folder`, parents first; returns when they are gone."""
    pids = processes_of(folder)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + QUIET_S
    while any(_stat(pid)[:1] not in ([], ["Z"]) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.005)


def processes_of(folder: str) -> list[int]:
    """The processes whose command line names the session's folder, and all that they started, parents first."""
    children: dict[int, list[int]] = {}
    found = []
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        state = _stat(pid)
        if len(state) > 1:
            children.setdefault(int(state[1]), []).append(pid)
            if pid != os.getpid() and folder.encode() in _command(pid):
                found.append(pid)
    for pid in found:  # grows while it is walked
        found.extend(child for child in children.get(pid, []) if child not in found)
    return found


def _stat(pid: int) -> list[str]:
    """The kernel's fields of a process, from its state on; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
