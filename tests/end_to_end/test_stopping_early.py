"""A job that stops early is finished: it says why, and says so again when it is started again."""

WORDS = (
    "run_id=early",
    "trainer.steps=400",
    "trainer.eval_every_steps=10",
    "trainer.phases=[{trainable: head, steps: 20}, {}]",
    "trainer.early_stopping={metric: validation_loss, patience: 2, min_delta: 0.5}",
    "trainer.ema_decay=0.9",
    "trainer.model.options.filters=[8]",
    "trainer.model.options.dense=0",
    "trainer.steps_per_loop=10",
)


def test_it_ends_before_its_last_step_and_stays_ended(convoy):
    said = convoy.run(*WORDS)
    (stopped,) = convoy.events("early", "stopped_early")
    reason, step = stopped["details"]["reason"], stopped["details"]["step"]
    assert 30 < step < 400 and "validation_loss was best at step" in reason and "2 evaluations ago" in reason
    assert f"done: {step} steps, {reason}" in said
    outcome = convoy.json("early", "outcome.json")
    assert (outcome["state"], outcome["step"], outcome["reason"]) == ("succeeded", step, reason)
    (phase,) = convoy.events("early", "phase")
    assert phase["details"]["step"] == 20 and phase["details"]["what"].startswith("all, to the end")
    best = convoy.events("early", "best_restored")[0]["details"]["step"]
    report = convoy.json("early", "report/metrics.json")
    assert report["step"] == best < step

    again = convoy.run("run_id=early")
    assert reason in again and convoy.json("early", "outcome.json")["state"] == "succeeded"
    assert convoy.json("early", "report/metrics.json") == report, "another model was measured"
    saved = {event["details"]["step"] for event in convoy.events("early", "checkpoint_saved")}
    assert max(saved) == step, "it trained on"
