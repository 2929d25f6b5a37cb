"""`job=sweep`, as typed: four trials, one of which fails and one is refused, killed and stopped in the middle."""

import csv
import io
import json
import time

import pytest
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

from launcher.command import run

BATCH = "trainer.global_batch_size"
#: The second batch is larger than the training split, and the fourth is none.
WORDS = (
    f"{BATCH}=32,100000,64,0",
    "trainer.steps=30",
    "trainer.eval_every_steps=15",
    "trainer.checkpoint_every_steps=15",
    "trainer.evaluate_at_end=false",
    "trainer.export_at_end=false",
)


def outcomes(convoy) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in convoy.runs.glob("swept-*/outcome.json")}


pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def swept(convoy) -> str:
    """What the sweep said that went on where the first was killed, which is also checked here."""
    process = convoy.start("-m", "run_id=swept", *WORDS)
    deadline = time.monotonic() + 250
    while not any(told["state"] == "succeeded" for told in outcomes(convoy).values()):
        if time.monotonic() > deadline or process.poll() is not None:
            process.kill()
            raise AssertionError(process.communicate()[0][-3000:])
        time.sleep(0.1)
    process.kill()
    process.communicate(timeout=30)
    finished = {name: told for name, told in outcomes(convoy).items() if told["state"] == "succeeded"}
    assert 1 <= len(finished) < 2
    before = {name: (convoy.runs / name / "events.jsonl").read_bytes() for name in finished}
    status = convoy.run("job=status", "run_id=swept")
    assert "state     interrupted" in status and "1 refused, 1 succeeded" in status
    assert "greater than 0" in next(line for line in status.splitlines() if line.startswith("swept-004"))
    stop(convoy)
    said = convoy.run("job=sweep", "run_id=swept")
    for name, events in before.items():
        assert (convoy.runs / name / "events.jsonl").read_bytes() == events, "a finished trial was begun again"
    assert "1 of 4 trials are finished" in said
    return said


def stop(convoy) -> None:
    """`job=stop` of the sweep while a trial of it is on its way."""
    lease = convoy.runs / "swept-003" / "driver.lease"
    left = lease.read_bytes() if lease.exists() else None  # by the one that was killed
    process, deadline = convoy.start("job=sweep", "run_id=swept"), time.monotonic() + 120
    while (not lease.exists() or lease.read_bytes() == left) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    assert "asked run swept" in convoy.run("job=stop", "run_id=swept")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 75 and "job=stop: go on with what has not succeeded" in said, said[-3000:]
    assert outcomes(convoy)["swept-003"]["state"] == "stopped", said[-3000:]
    assert "nothing to stop" in convoy.run("job=stop", "run_id=swept")


def test_all_trials_have_ended_and_the_table_is_sorted(convoy, swept):
    table = list(csv.DictReader(io.StringIO((convoy.runs / "swept" / "report" / "sweep.csv").read_text())))
    assert [row["state"] for row in table] == ["succeeded", "succeeded", "failed", "refused"]
    assert [row["run_id"] for row in table[2:]] == ["swept-002", "swept-004"]
    accuracies = [float(row["validation_accuracy"]) for row in table[:2]]
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[1] > 0
    for row in table[:2]:
        last = convoy.events(row["run_id"], "evaluated")[-1]["details"]
        assert last["step"] == 30 and last["accuracy"] == float(row["validation_accuracy"])
        assert convoy.json(row["run_id"], "outcome.json")["state"] == "succeeded"
    rows = convoy.json("swept", "report/sweep.json")
    assert rows["metric"] == "validation_accuracy" and rows["trials"][0]["run_id"] == table[0]["run_id"]
    assert {row["run_id"]: row["values"][BATCH] for row in rows["trials"]} == {
        "swept-001": "32",
        "swept-002": "100000",
        "swept-003": "64",
        "swept-004": "0",
    }


def test_a_failing_trial_is_named_with_its_reason(convoy, swept):
    named = {line.split()[0]: line for line in swept.splitlines() if line.startswith("swept-")}
    assert "failed" in named["swept-002"] and "refused" in named["swept-004"] and "greater than 0" in named["swept-004"]
    assert "training split has only" in (convoy.runs / "swept" / "trials" / "002.log").read_text()


def test_tensorboard_shows_hyperparameters_with_results(convoy, swept):
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(convoy.runs))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(convoy.runs))
    context, request = backend_context.Context(base_plugin.TBContext(data_provider=provider)), RequestContext()
    experiment = get_experiment.Handler(request, context, "", api_pb2.GetExperimentRequest()).run()
    assert {info.name for info in experiment.hparam_infos} == {BATCH}
    metrics = [info for info in experiment.metric_infos if info.name.tag == "validation_accuracy"]
    wanted = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=10,
        allowed_statuses=[api_pb2.STATUS_SUCCESS],
        col_params=[api_pb2.ColParams(metric=info.name) for info in metrics],
    )
    groups = list_session_groups.Handler(request, context, "", wanted).run().session_groups
    assert sorted(group.name for group in groups) == ["swept-001", "swept-003"]
    for group in groups:
        assert group.hparams[BATCH].number_value == (32 if group.name == "swept-001" else 64)
        last = convoy.events(group.name, "evaluated")[-1]["details"]
        values = {value.name.tag: value.value for value in group.metric_values}
        assert values["validation_accuracy"] == pytest.approx(last["accuracy"], abs=1e-6)


def test_another_sweep_of_that_name_is_refused(convoy, swept, capsys):
    assert run(["-m", "run_id=swept", f"storage.root={convoy.runs}", *WORDS[1:], f"{BATCH}=1,2"]) == 78
    said = capsys.readouterr().err
    assert "this sweep was begun with" in said and "another run_id" in said
