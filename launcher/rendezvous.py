"""All workers report before any of them touches TensorFlow: who is there, where, with what. Pure."""

import json
from collections.abc import Mapping, Sequence

from conf.errors import BadSpec, Problem
from launcher.messages import AgentReport
from launcher.placement import Placement


class Absent(Exception):
    """Some workers did not report in time; says which and why."""


class NoRoom(Absent):
    """The cluster has no host for some workers."""


def absent(missing: Mapping[int, str], num_workers: int, waited_s: float, kind: type[Absent] = Absent) -> Absent:
    """The error that names the missing ranks, ranks with the same reason together."""
    reasons: dict[str, list[int]] = {}
    for rank, reason in missing.items():
        reasons.setdefault(reason, []).append(rank)
    listed = "; ".join(f"{ranks(members)}: {reason}" for reason, members in reasons.items())
    cure = "see whether that host still works, or give cluster.start_timeout_s more seconds"
    if kind is NoRoom:
        cure = "free or add capacity, give cluster.capacity_timeout_s more seconds, or allow fewer: cluster.min_workers"
    return kind(f"{len(missing)} of {num_workers} workers did not report within {waited_s:g} s - {listed} - {cure}")


def ranks(members: Sequence[int]) -> str:
    """'rank 1' or 'ranks 0, 2'."""
    return f"rank{'s' if len(members) > 1 else ''} {', '.join(str(rank) for rank in sorted(members))}"


def check_alike(reports: Sequence[AgentReport]) -> None:
    """Refuse hosts with different versions, naming who has what: their workers would not understand one another."""
    names = dict.fromkeys(name for report in reports for name in report.versions)
    problems = [problem for name in names if (problem := _difference(name, reports))]
    if problems:
        raise BadSpec(problems)


def _difference(name: str, reports: Sequence[AgentReport]) -> Problem | None:
    """Who has which version of one thing; None if all have the same."""
    owners: dict[str, list[AgentReport]] = {}
    for report in reports:
        owners.setdefault(report.versions.get(name, "none"), []).append(report)
    if len(owners) == 1:
        return None
    listed = "; ".join(
        f"{version} on {', '.join(dict.fromkeys(report.host for report in having))} ({ranks([r.rank for r in having])})"
        for version, having in owners.items()
    )
    return Problem(
        "cluster", name, f"every host needs the same {name}: {listed}", "install the same image on all hosts"
    )


def check_gpus(reports: Sequence[AgentReport], placement: Placement) -> None:
    """Refuse when Ray gave a worker fewer GPUs than it was promised."""
    for report in reports:
        if len(report.gpus) < placement.gpus:
            law = f"rank {report.rank} on {report.host} was given {len(report.gpus)} of {placement.gpus} GPUs"
            raise BadSpec.of("cluster.gpus_per_worker", placement.gpus, law, "check nvidia-smi and what Ray sees there")


def worker_environs(reports: Sequence[AgentReport], placement: Placement) -> list[dict[str, str]]:
    """What each worker needs in its environment: its GPUs or none, and TF_CONFIG if there are several."""
    addresses = [f"{report.ip}:{report.port}" for report in reports]
    environs = []
    for report in reports:
        environ = {"CUDA_VISIBLE_DEVICES": ",".join(report.gpus) if placement.gpus else "-1"}
        if len(reports) > 1:
            task = {"type": "worker", "index": report.rank}
            environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        environs.append(environ)
    return environs
