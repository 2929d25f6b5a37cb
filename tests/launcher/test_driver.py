"""The whole command with fake workers: what it says, what its exit code is, and that nothing is left of it."""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.launcher.conftest import HERE, living

ROOT = HERE.parents[1]


class Command:
    """`python fake_driver.py ...` in a folder of its own, whose temp dir is its own too."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.temp = Path(tempfile.mkdtemp(prefix="ct-"))  # short: Ray's sockets lie in there
        data = folder / "data"
        data.mkdir()
        manifest = {"splits": {"train": {"num_examples": 640, "shards": [1]}}}
        (data / "manifest.json").write_text(json.dumps(manifest))
        self.words = [f"storage.root={folder}/runs", "run_id=x", "data=tfrecord", f"data.path={data}", "cluster=2cpu"]
        self.environ = os.environ | {
            "FAKE_DIR": str(folder),
            "TMPDIR": str(self.temp),
            "HOME": str(folder),
            "PYTHONPATH": f"{HERE}:{ROOT}",
        }

    def start(self, behaviour: str, *words: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(HERE / "fake_driver.py"), *self.words, "cluster.standby=off", *words]
        environ = self.environ | {"FAKE": behaviour}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environ, cwd=self.folder, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def run(self, behaviour: str, *words: str) -> tuple[int, str]:
        with self.start(behaviour, *words) as process:
            said, _ = process.communicate(timeout=90)
            return process.returncode, said

    def outcome(self) -> dict:
        return json.loads((self.folder / "runs/x/outcome.json").read_text())

    def left(self, timeout_s: float = 30.0) -> tuple[list, list]:
        """Processes and temporary files that are still there a moment later."""
        eventually(lambda: not living(str(self.folder)), timeout_s)
        return living(str(self.folder)), list(self.temp.iterdir())


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path)
    yield command
    for process in living(str(tmp_path)):
        process.kill()
    subprocess.run(["rm", "-rf", str(command.temp)], check=True)


def eventually(is_so: Callable[[], object], timeout_s: float = 30.0) -> object:
    deadline = time.monotonic() + timeout_s
    while not (found := is_so()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def addresses(processes: list[psutil.Process]) -> set[str]:
    """Where these processes listen."""
    found = set()
    for process in processes:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.add(connection.laddr.ip.removeprefix("::ffff:"))
    return found


def test_a_job_succeeds_on_loopback_and_leaves_nothing_behind(command):
    process = command.start("wait")
    assert eventually((command.folder / "seen_1").exists)
    mine = living(str(command.folder))
    assert len(mine) > 6  # Ray's, the agents, the workers
    assert addresses(mine) == {"127.0.0.1"}
    code, said = command.run("wait")  # a second driver, while the first one lives
    assert (code, "is driving this run" in said) == (78, True)
    code, said = command.run("wait", "job=stop")
    assert (code, "asked run x" in said) == (0, True)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, command.outcome()["state"]) == (75, "stopped")
    assert "go on with:" in said and "run_id=x" in said
    assert command.left() == ([], [])
    assert not (command.folder / ".ray").exists()

    assert command.run("succeed")[0] == 0  # goes on, and ends
    assert command.outcome() == {"state": "succeeded", "attempts": 2, "step": 10, "reason": "done"}
    code, said = command.run("succeed")
    assert (code, "run x is finished" in said) == (0, True)
    code, said = command.run("succeed", "job=status")
    assert (code, "succeeded" in said) == (0, True)
    assert command.left() == ([], [])


def test_a_job_goes_on_when_nobody_reads_what_it_says(command):
    """As under `| head -1`."""
    process = command.start("succeed")
    assert process.stdout.readline().startswith("a new run x begins in")
    process.stdout.close()
    assert process.wait(timeout=90) == 0
    assert command.outcome() == {"state": "succeeded", "attempts": 1, "step": 10, "reason": "done"}
    assert command.left() == ([], [])


@pytest.mark.parametrize("closed", ["by its reader", "from the start"])
def test_an_answer_that_nobody_reads_is_no_error(command, closed):
    line = [sys.executable, str(ROOT / "launcher/run.py"), *command.words, "dry_run=true"]
    close = functools.partial(os.close, 1) if closed == "from the start" else None
    pipe = subprocess.PIPE
    with subprocess.Popen(line, env=command.environ, stdout=pipe, stderr=pipe, text=True, preexec_fn=close) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=30)) == ("", 0)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_ctrl_c_and_sigterm_save_and_say_how_to_go_on(command, number, expected):
    process = command.start("wait")
    assert eventually((command.folder / "seen_1").exists)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, command.outcome()["state"]) == (expected, "stopped")
    assert f"run_id=x storage.root={command.folder}/runs" in said
    assert "Traceback" not in said
    assert command.left() == ([], [])


@pytest.mark.parametrize(
    ("number", "after_s", "expected"),
    [(signal.SIGINT, 0.3, 130), (signal.SIGINT, 1.0, 130), (signal.SIGINT, 2.0, 130), (signal.SIGTERM, 1.0, 75)],
)
def test_a_signal_before_there_are_workers_ends_at_once(command, number, after_s, expected):
    process = command.start("wait")
    assert process.stdout.readline().startswith("a new run x begins in")
    time.sleep(after_s)
    begun = time.monotonic()
    process.send_signal(number)
    if number == signal.SIGINT and not (command.folder / "seen_1").exists():
        assert process.stdout.readline() == "Ctrl-C: stopping\n"
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, command.outcome()["state"]) == (expected, "stopped")
    assert "Traceback" not in said
    assert time.monotonic() - begun < 25  # a busy machine takes its time
    assert "go on with:" in said
    assert command.left() == ([], [])


def test_ctrl_c_while_importing_is_no_traceback(command):
    interrupts = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    (command.folder / "hydra.py").write_text(interrupts)
    environ = command.environ | {"PYTHONPATH": str(command.folder)}
    line = [sys.executable, str(ROOT / "launcher/run.py"), *command.words, "dry_run=true"]
    # A shell's background job would hand down a SIGINT that is ignored.
    hears = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    done = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=30, check=False, preexec_fn=hears)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_killed_driver_leaves_no_process_and_the_next_one_sweeps_its_files(command):
    process = command.start("wait")
    assert eventually((command.folder / "seen_1").exists)
    process.kill()
    process.communicate()
    # Ray's own agents, whose raylet is dead, may try for 60 s to tell a head that is dead too.
    processes, files = command.left(90)
    assert processes == []
    assert files  # nobody was left to remove them
    assert command.run("succeed")[0] == 0
    assert command.left() == ([], [])


def test_a_driver_that_was_taken_over_stops_and_leaves_the_run_to_the_other(command):
    """It was out of reach for too long. How the run ends is for the other one to say."""
    command.environ["FAKE_RENEW_S"] = "0.2"
    process = command.start("wait")
    assert eventually((command.folder / "seen_1").exists)
    lease = command.folder / "runs/x/driver.lease"
    other = json.loads(lease.read_text()) | {"nonce": "other", "host": "elsewhere", "pid": 7}
    (command.folder / "other").write_text(json.dumps(other))
    os.replace(command.folder / "other", lease)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "run x: process 7 on elsewhere drives it now" in said
    assert said.rstrip().endswith("another process drives run x now") and "go on with" not in said
    assert not (command.folder / "runs/x/outcome.json").exists()
    assert json.loads(lease.read_text()) == other
    assert command.left() == ([], [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cluster=4gpu"], "cluster.accelerator=cpu"),
        (["cluster.workers=4096", "trainer.global_batch_size=4096"], "cluster.workers=4096"),
        (["trainer.stepz=1"], "did you mean trainer.steps?"),
        (["trainer.global_batch_size=63"], "64"),
        (["--colour"], "there is no such flag"),
        (["job=evaluate", "run_id=nothing"], "no such run"),
        (["storage.root=/proc/nowhere"], "storage.root=/proc/nowhere"),
        (["storage.root=/proc/nowhere", "job=prepare", "data=digits"], "storage.root=/proc/nowhere"),
        (["cluster.address=127.0.0.1:1"], "cluster.address=127.0.0.1:1 - nothing answers there: Connection refused"),
    ],
)
def test_refusals_are_quick_and_leave_nothing(command, words, said):
    begun = time.monotonic()
    environ = command.environ | {"CUDA_VISIBLE_DEVICES": "", "FAKE": "succeed"}
    line = [sys.executable, "-X", "importtime", str(ROOT / "launcher/run.py"), *command.words, *words]
    done = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=60, check=False)
    answer = "\n".join(row for row in done.stderr.splitlines() if not row.startswith("import time:"))
    assert (done.returncode, said in answer, "Traceback" in answer) == (78, True, False)
    assert time.monotonic() - begun < 10
    for module in ("ray", "tensorflow", "keras"):
        assert f"| {module}\n" not in done.stderr
    assert not (command.folder / "runs").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dry_run=true"], "MultiWorkerMirroredStrategy"),
        (["dry_run=true", "cluster=4gpu"], "not on this machine  cluster=4gpu - needs 4 GPUs on one host"),
        (["dry_run=true", "cluster=4gpu", "job=prepare"], "1, each with 4 GPUs"),
        (["--help"], "trainer"),
        (["--version"], "convoy"),
        (["--cfg", "job"], "global_batch_size"),
    ],
)
def test_what_starts_nothing_answers_without_ray(command, words, expected):
    line = [sys.executable, "-X", "importtime", str(ROOT / "launcher/run.py"), *command.words, *words]
    environ = command.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, expected in done.stdout) == (0, True)
    for module in ("ray", "tensorflow", "keras"):
        assert f"| {module}\n" not in done.stderr
    assert not (command.folder / "runs").exists()
