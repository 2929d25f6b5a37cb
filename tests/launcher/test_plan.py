"""What a plan tells before anything is started."""

from launcher.compose import compose
from launcher.plan import plan
from storage.run_dir import RunDir


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
