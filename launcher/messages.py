"""What crosses between the driver and the agents. Plain and frozen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Standby:
    """A fork server that has imported TensorFlow: where it listens, and its process."""

    socket: str
    pid: int


@dataclass(frozen=True)
class Order:
    """One child process to start."""

    module: str
    argv: tuple[str, ...]
    root_url: str  # with run_id: the run directory, seen from the agent's host
    run_id: str
    log: str  # name in the run directory; stdout and stderr are appended to it
    env: Mapping[str, str] = field(default_factory=dict)  # added to the agent's own
    cwd: str | None = None
    forked: bool = False  # from the standby server, if there is one
    standby: Standby | None = None  # the driver's; without one an agent starts its host's own
    standby_key: str = "convoy"  # agents of one job on one host share the server of this name
    job: tuple[str, str] | None = None  # the job's name in the run directory and the sha256 it has to have there


@dataclass(frozen=True)
class AgentReport:
    """What an agent says of itself before anything is started."""

    rank: int
    host: str
    ip: str
    port: int  # free a moment ago
    pid: int
    cpus: int
    gpus: tuple[str, ...]  # as Ray assigned them
    versions: Mapping[str, str]
    node: str = ""  # Ray's name for its host


@dataclass(frozen=True)
class WorkerStatus:
    """How one child is doing. `exit_code` is None while it lives; a signal is negative, as in subprocess."""

    rank: int
    started: bool = False
    pid: int | None = None
    exit_code: int | None = None
    exit_time: float = 0.0
    lost: str | None = None  # why the agent itself cannot be asked any more
    silent_s: float = 0.0  # since the last line, or since the start
    suspended: bool = False  # its process is stopped, as by SIGSTOP
    unheard_s: float = 0.0  # since its agent answered
    longest_silence_s: float = 0.0  # between two signs of a training that had begun
    progress: Mapping[str, Any] = field(default_factory=dict)
    first_step: int | None = None  # of this attempt's training
    events: tuple[Mapping[str, Any], ...] = ()
    error: Mapping[str, Any] | None = None  # the first it reported
    result: Mapping[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come from this child."""
        return self.exit_code is not None or self.lost is not None

    @property
    def step(self) -> int | None:
        """The last optimizer step it reported."""
        return self.progress.get("step")
