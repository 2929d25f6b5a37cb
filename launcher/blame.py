"""Which worker is the cause when others say only that they lost somebody. Pure: statuses in, one of them out.

TensorFlow's survivors notice a frozen peer before any deadline of ours does (its heartbeats fail after about nine
seconds), and a peer whose host is gone before Ray does. The first to end is then not the one to blame.
"""

from collections.abc import Mapping

from launcher.messages import WorkerStatus

#: How a worker's account begins when it ended because of another one (trainer/failures.py).
LOST_CONTACT = "lost contact with another worker"
#: An agent answers four times a second; one that has not for this long is suspected, once a worker has lost somebody.
UNHEARD_S = 1.5
#: How long the others are given to show who is the cause.
PATIENCE_S = 3.0


def is_consequence(status: WorkerStatus) -> bool:
    """Whether this worker ended because of another one."""
    return str((status.error or {}).get("message", "")).startswith(LOST_CONTACT)


def suspect(statuses: Mapping[int, WorkerStatus]) -> WorkerStatus | None:
    """The living worker that stands still or cannot be asked, which explains the deaths of others."""
    living = [status for status in statuses.values() if not status.ended]
    frozen = [status for status in living if status.suspended]
    unheard = [status for status in living if status.unheard_s > UNHEARD_S]
    return next(iter([*frozen, *sorted(unheard, key=lambda status: -status.unheard_s)]), None)


def is_unexplained(statuses: Mapping[int, WorkerStatus]) -> bool:
    """Whether all that ended did so because of another one, and nothing says yet who that is."""
    ended = [status for status in statuses.values() if status.ended and status.exit_code != 0]
    if not ended or len(ended) == len(statuses) or suspect(statuses) is not None:
        return False
    return all(is_consequence(status) for status in ended)


def account(status: WorkerStatus) -> str:
    """What is wrong with a suspect."""
    if status.suspended:
        return f"stands still: its process {status.pid} was suspended (SIGSTOP)"
    return f"its agent has not answered for {status.unheard_s:.0f} s"
