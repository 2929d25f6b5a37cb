"""What a plan tells before anything is started."""

from launcher.compose import compose
from launcher.plan import plan
from storage.run_dir import MICRO_BATCH, RunDir


def planned(root: str, *words: str) -> list[str]:
    job = compose([*words, f"storage.root={root}", "run_id=x"]).job
    return plan(job, RunDir(root, "x")).splitlines()


def test_what_devices_do_not_keep_is_said_before_the_job_starts(tmp_path):
    words = ("trainer.deterministic=true", "trainer.compile=xla", "cluster=2x4gpu")
    (gpus,) = [line for line in planned(str(tmp_path), *words) if line.startswith("take care")]
    assert "trainer.deterministic=true on GPUs" in gpus and "not in Convoy's hands" in gpus
    (cpus,) = [line for line in planned(str(tmp_path), *words, "cluster.accelerator=cpu") if "take care" in line]
    assert "trainer.compile=xla on a CPU" in cpus
    assert not any("take care" in line for line in planned(str(tmp_path), *words[2:]))
    assert not list(tmp_path.iterdir())


def test_what_a_run_has_found_to_fit_is_planned(tmp_path):
    def micro_batch(*words: str) -> str:
        lines = planned(str(tmp_path), "cluster=2cpu", "trainer.global_batch_size=96", *words)
        return next(line for line in lines if line.startswith("micro-batch"))

    auto = "trainer.micro_batch=auto"
    assert micro_batch().endswith("  48 (1 an update)")
    assert "the largest that fits, at most 48" in micro_batch(auto)
    RunDir(str(tmp_path), "x").write_json(MICRO_BATCH, {"micro_batch": 20})
    assert micro_batch().endswith("  16 (3 an update, as this run has found)")
    assert micro_batch(auto) == micro_batch()
    assert micro_batch("trainer.micro_batch=24").endswith("  24 (2 an update)")
    assert micro_batch("trainer.accumulation_steps=6").endswith("  8 (6 an update)")
