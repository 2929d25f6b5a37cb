"""Who is named as the one the others wait for, as a table; and what hosts must have in common."""

import hashlib
import importlib
import time
from dataclasses import replace
from pathlib import Path

import pytest

from conf.errors import BadSpec
from conf.schema import JobSpec
from launcher.gate import prepare_own_ray
from launcher.installed import code_digest, versions
from launcher.memory_kills import memory_kills
from launcher.messages import AgentReport, Order, WorkerStatus
from launcher.orders import Orders
from launcher.placement import Placement
from launcher.recovery import Kind, kind_of
from launcher.rendezvous import check_alike, check_gpus
from launcher.straggler import Straggler, Stragglers
from launcher.verbs.status import describe
from storage.run_dir import RunDir


def after(steps: int, *own_s: float) -> dict[int, WorkerStatus]:
    """Statuses after so many steps, whose own parts took so long together."""
    told = [{"phase": "training", "step": steps, "pace": {"own_s": seconds}} for seconds in own_s]
    return {rank: WorkerStatus(rank, progress=progress) for rank, progress in enumerate(told)}


@pytest.mark.parametrize(
    ("own_s", "expected"),
    [
        ((4.0, 2.0), Straggler(0, 0.1, 0.05)),
        ((2.0, 2.0, 2.0, 8.0), Straggler(3, 0.2, 0.05)),
        ((2.0, 2.9), None),  # not half as long again
        ((0.4, 0.2), None),  # too short to say
        ((4.0,), None),  # nobody waits
    ],
)
def test_the_slowest_is_named_where_it_is_much_slower(own_s, expected):
    watch = Stragglers()
    assert watch.note(after(10, *(0.0 for _ in own_s))) is None
    assert watch.note(after(29, *own_s)) is None  # too few steps to say
    found = watch.note(after(50, *own_s))
    assert found == (expected and replace(expected, own_step_s=pytest.approx(expected.own_step_s)))


def test_it_is_named_once_and_when_it_has_caught_up():
    watch = Stragglers()
    watch.note(after(0, 0.0, 0.0))
    assert watch.note(after(20, 4.0, 1.0)) == Straggler(0, 0.2, 0.05)
    assert watch.note(after(40, 8.0, 2.0)) is None
    assert watch.note(after(60, 9.0, 3.0)) == 0
    assert watch.note(after(80, 10.0, 7.0)) == Straggler(1, 0.2, 0.05)


def test_the_status_names_a_straggler_while_there_is_one(tmp_path):
    run_dir = RunDir(str(tmp_path), "x")
    run_dir.append_event({"kind": "straggler", "rank": 1, "details": {"own_step_s": 0.25, "others_step_s": 0.05}})
    line = "straggler rank 1: its part of a step takes 0.25 s, the others' 0.05 s"
    assert line in describe(run_dir)
    run_dir.append_event({"kind": "straggler_over", "rank": 1})
    assert not any(shown.startswith("straggler rank 1:") for shown in describe(run_dir))


def report(rank: int, host: str, **versions: str) -> AgentReport:
    return AgentReport(rank, host, "127.0.0.1", 1, 1, 2, (), {"python": "3.11.2", "code": "abc"} | versions)


def test_who_differs_in_what_is_refused_with_all_names():
    check_alike([report(0, "a"), report(1, "b")])
    with pytest.raises(BadSpec) as refused:
        check_alike([report(0, "a"), report(1, "b", python="3.12.1"), report(2, "b", python="3.12.1", code="def")])
    first, second = (str(problem) for problem in refused.value.problems)
    assert "every host needs the same python: 3.11.2 on a (rank 0); 3.12.1 on b (ranks 1, 2)" in first
    assert "every host needs the same code: abc on a, b (ranks 0, 1); def on b (rank 2)" in second


@pytest.mark.parametrize("name", ["python", "ray", "tensorflow", "keras", "convoy", "code"])
def test_whatever_a_host_reports_has_to_be_the_same_before_anything_is_started(name, tmp_path):
    """What a real agent says of this host, and another one that has something else."""
    mine = versions()
    assert name in mine and "none" not in mine.values()
    run_dir = RunDir(str(tmp_path), "x")
    orders = Orders(JobSpec(run_id="x"), run_dir, Placement(2, 1, 0, 1, 1), None)
    for make in (orders.work, orders.probe):
        with pytest.raises(BadSpec, match=f"every host needs the same {name}: .* on a .* on b "):
            make(1, [replace(report(0, "a"), versions=mine), replace(report(1, "b"), versions=mine | {name: "other"})])
    assert list(run_dir.store.list()) == []
    made = orders.work(1, [replace(report(rank, "ab"[rank]), versions=mine) for rank in range(2)])
    seen = hashlib.sha256(run_dir.store.get("attempts/01/job.yaml")).hexdigest()
    assert [order.job for order in made] == [("attempts/01/job.yaml", seen)] * 2


def test_a_worker_with_fewer_gpus_than_it_was_promised_is_refused_by_number():
    placement = Placement(2, 1, 2, 2, 2)
    enough, short = (replace(report(rank, "a"), gpus=gpus) for rank, gpus in enumerate([("0", "1"), ("2",)]))
    check_gpus([enough, replace(short, gpus=("2", "3"))], placement)
    with pytest.raises(BadSpec, match="rank 1 on a was given 1 of 2 GPUs"):
        check_gpus([enough, short], placement)


def test_the_digest_of_the_code_sees_every_file(tmp_path):
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "step.py").write_text("x = 1\n")
    before = code_digest(tmp_path)
    code_digest.cache_clear()
    (tmp_path / "trainer" / "step.py").write_text("x = 2\n")
    after_change = code_digest(tmp_path)
    code_digest.cache_clear()
    (tmp_path / "trainer" / "more.py").write_text("")
    assert len({before, after_change, code_digest(tmp_path)}) == 3


def test_a_host_that_does_not_see_the_job_is_refused(tmp_path):
    prepare_own_ray()  # Ray reads its settings while it is imported, once for all tests of this process
    module = importlib.import_module("launcher.agent")
    unseen = module.unseen
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of "hello"
    order = Order("m", (), str(tmp_path), "x", "log", job=("job.yaml", digest))
    assert "does not see" in str(unseen(order)) and f"storage.root={tmp_path}" in str(unseen(order))
    RunDir(str(tmp_path), "x").store.put("job.yaml", b"hello")
    assert unseen(order) is None
    RunDir(str(tmp_path), "x").store.put("job.yaml", b"hallo")
    assert "sees another job" in str(unseen(order))
    agent = module.Agent(0)
    agent.start(order)
    status = agent.poll(0.0)
    assert (status.exit_code, kind_of(status)) == (78, Kind.bad_spec) and "sees another job" in status.error["message"]
    assert unseen(replace(order, job=None)) is None


def test_the_kernels_counters_of_memory_kills_are_added_up(tmp_path: Path):
    host, group = tmp_path / "vmstat", tmp_path / "memory.events"
    host.write_text("pgfault 12\noom_kill 3\n")
    group.write_text("low 0\noom 4\noom_kill 2\noom_group_kill 7\n")
    assert memory_kills((host, group, tmp_path / "absent")) == 5
    assert memory_kills() >= 0


@pytest.mark.parametrize(
    ("lost", "kind"),
    [
        ("its agent died (ActorDiedError: the actor died because its node has died)", Kind.infrastructure),
        ("its agent died (The actor's node was preempted)", Kind.preempted),
        ("its agent died (the node was drained: maintenance)", Kind.preempted),
        ("its agent died (Task was killed due to the node running low on memory)", Kind.out_of_memory),
    ],
)
def test_rays_own_account_of_a_death_is_understood(lost, kind):
    assert kind_of(WorkerStatus(0, lost=lost, exit_time=time.time())) is kind


@pytest.mark.parametrize(
    ("code", "error_kind", "kind"),
    [
        (-9, None, Kind.infrastructure),
        (-9, "out_of_memory", Kind.out_of_memory),  # the kernel says that it killed somebody meanwhile
        (-11, None, Kind.infrastructure),
        (1, "out_of_memory", Kind.out_of_memory),
    ],
)
def test_signals_and_memory(code, error_kind, kind):
    error = {"error_kind": error_kind, "message": "x"} if error_kind else None
    assert kind_of(WorkerStatus(0, exit_code=code, error=error)) is kind
