"""How long a worker may be silent before it is taken for hung. Pure: statuses in, ranks out.

`cluster.hang_timeout_s` says it, or, where that is null, the worker's own rhythm: ten times the longest silence between
two of its calls of the compiled loop, but never less than two minutes. What happens once and may take long (import,
restoring, compiling, export) gets more.
"""

from collections.abc import Mapping

from conf.schema import ClusterSpec
from launcher.messages import WorkerStatus

#: Phases in which a worker is heard of regularly.
RHYTHMIC = ("training", "evaluating")
FACTOR = 10.0
SHORTEST_S = 120.0
#: Of what has no rhythm.
ONCE_S = 600.0


def patience_s(cluster: ClusterSpec, status: WorkerStatus) -> float:
    """The longest silence that is allowed to this worker now."""
    if cluster.hang_timeout_s is not None:
        limit = cluster.hang_timeout_s
    elif status.first_step is not None and status.progress.get("phase") in RHYTHMIC:
        limit = max(SHORTEST_S, FACTOR * status.longest_silence_s)
    else:
        limit = ONCE_S
    return limit if status.first_step is not None else limit + cluster.start_timeout_s


def stalled(cluster: ClusterSpec, statuses: Mapping[int, WorkerStatus]) -> list[int]:
    """Ranks without a sign for too long, the cause first: one that was suspended, else the most silent."""
    late = [rank for rank, status in statuses.items() if not status.ended and _is_late(cluster, status)]
    return sorted(late, key=lambda rank: (not statuses[rank].suspended, -statuses[rank].silent_s))


def _is_late(cluster: ClusterSpec, status: WorkerStatus) -> bool:
    return status.silent_s > patience_s(cluster, status)
