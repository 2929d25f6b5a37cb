"""A batch that blows up: the job stops and is not started again in vain; asked to, it goes on without the batch."""

import numpy as np

from data_pipeline.manifest import load_manifest
from data_pipeline.order import place_to_example
from tests.data_pipeline.damaging import rewritten

STEP, BATCH = 6, 64
WORDS = (
    "run_id=poisoned",
    "data=tfrecord",
    "data.channels=1",
    "cluster=2cpu",
    "trainer.steps=12",
    "trainer.checkpoint_every_steps=4",
    "trainer.steps_per_loop=3",
    "trainer.model.options.filters=[8]",
    "trainer.model.options.dense=0",
    "trainer.export_at_end=false",
)


def test_it_stops_by_name_and_goes_on_without_the_batch(convoy):
    url = f"{convoy.runs}/set"
    convoy.run("job=prepare", f"data.out={url}")
    manifest = load_manifest(url)
    place = np.array([(STEP - 1) * BATCH + 3])
    poisoned = int(place_to_example(0, 0, place, manifest.splits["train"].num_examples)[0])
    rewritten(manifest, "train", {poisoned: lambda record: record._replace(weight=float("inf"))})

    said = convoy.run(*WORDS, f"data.path={url}", expect=1)
    outcome = convoy.json("poisoned", "outcome.json")
    assert (outcome["state"], outcome["attempts"]) == ("failed", 1) and outcome["reason"] in said
    assert f"blow-up in step {STEP}: the loss is inf (epoch 0, places 320 to 383: " in outcome["reason"]
    assert "trainer.on_blow_up=skip" in outcome["reason"]
    (told,) = convoy.json("poisoned", "report/blow_ups.json")
    assert told["examples"][3]["record"] == poisoned and not told["left_out"]

    said = convoy.run("run_id=poisoned", "trainer.on_blow_up=skip")
    assert "back to the last checkpoint, and on without this batch; starting again" in said
    outcome = convoy.json("poisoned", "outcome.json")
    assert (outcome["state"], outcome["step"], outcome["attempts"]) == ("succeeded", 12, 3)
    kinds = [event["details"]["kind"] for event in convoy.events("poisoned", "attempt_ended")]
    assert kinds == ["blow_up", "rolled_back", "done"]
    assert [event["details"]["counted"] for event in convoy.events("poisoned", "restart")] == [False]
    (told,) = convoy.json("poisoned", "report/blow_ups.json")
    assert told["step"] == STEP and told["left_out"]
    assert np.isfinite(convoy.json("poisoned", "report/metrics.json")["loss"])
