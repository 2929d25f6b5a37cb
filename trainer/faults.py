"""Faults that a job puts into itself (`fault.*`), to see that its cluster survives them.

They sit where a worker speaks and where it writes, in `FaultyChannel` and `FaultyStore`, so that nothing of the
training knows of them and a job without them has none of this.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

from conf.errors import BadSpec
from conf.fault_rules import is_faulty
from conf.schema import FaultPhase, FaultSpec
from storage.run_dir import RunDir, checkpoint_name, checkpoint_step
from storage.store import Store, Stored, StoreError
from trainer.channel import Channel

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"


def with_faults(channel: Channel, run: RunDir, fault: FaultSpec, rank: int) -> Channel:
    """The channel to speak to from now on; where faults are asked for, it and the run's store bring them about."""
    if not is_faulty(fault):
        return channel
    faults = Faults(fault, rank, run, channel)
    run.store = FaultyStore(run.store, faults)
    return FaultyChannel(channel, faults)


def refuse_too_late(fault: FaultSpec, steps: int) -> None:
    """Raise BadSpec where a training ends before its faults: that it survived them would mean nothing."""
    if is_faulty(fault) and fault.during is not FaultPhase.starting and fault.at_step > steps:
        law = f"the training has {steps} steps, so the faults would never come"
        raise BadSpec.of("fault.at_step", fault.at_step, law, f"fault.at_step={max(steps // 2, 1)}")


class Faults:
    """What one worker still has to suffer."""

    def __init__(self, fault: FaultSpec, rank: int, run: RunDir, channel: Channel):
        self._fault, self._rank, self._run, self._channel = fault, rank, run, channel
        self._step = 0
        self._lock = threading.Lock()  # checkpoints are written by a thread
        self._done = False
        self._failing = fault.failing_writes

    def reach(self, phase: FaultPhase, step: int | None) -> None:
        """The worker is in this phase now, at this step where it is known."""
        earlier, self._step = self._step, max(step or 0, self._step)
        if phase is FaultPhase.training and self._rank == self._fault.slow_rank and self._is_due():
            time.sleep(self._fault.slow_s * max(self._step - earlier, 1))
        if phase is self._fault.during and (phase is FaultPhase.starting or self._is_due()):
            self._strike()

    def restored(self, step: int) -> None:
        """The worker goes on from this step, perhaps with nothing left to train."""
        self._step = max(step, self._step)

    def saved(self, step: int) -> None:
        """A checkpoint is there for good."""
        if self._fault.corrupt_checkpoint and step >= self._fault.at_step:
            self._tell("corrupt_checkpoint", step)
            damage_checkpoint(self._run, step)
            _end(signal.SIGKILL)

    def write(self, name: str) -> None:
        """The worker writes this object. Raises StoreError where it shall fail."""
        step = checkpoint_step(name)
        if step is None or step < self._fault.at_step:
            return
        with self._lock:
            fails, self._failing = self._failing > 0, max(self._failing - 1, 0)
        if fails:
            self._tell("failing_writes", step)
            raise StoreError(f"{name}: not written - fault.failing_writes={self._fault.failing_writes}")
        if self._fault.during is FaultPhase.saving and name.endswith(f"/{MANIFEST}"):
            self._strike()

    def _is_due(self) -> bool:
        return self._step >= self._fault.at_step

    def _strike(self) -> None:
        """Whatever is asked of this rank, once."""
        if self._done:
            return
        fault, self._done = self._fault, True
        if self._rank == fault.kill_rank:
            self._tell("kill_rank", self._step)
            _end(signal.SIGKILL)
        if self._rank == fault.freeze_rank:
            self._tell("freeze_rank", self._step)
            _end(signal.SIGSTOP)
        if self._rank == fault.exhaust_rank:
            self._tell("exhaust_rank", self._step)
            raise MemoryError(f"fault.exhaust_rank={self._rank} at step {self._step}")
        if self._rank == fault.raise_rank:
            self._tell("raise_rank", self._step)
            raise ConnectionError(f"fault.raise_rank={self._rank} at step {self._step}")

    def _tell(self, name: str, step: int) -> None:
        self._channel.say("event", event="fault", details={"fault": name, "step": step, "time": time.time()})


class FaultyChannel:
    """A worker's channel that listens to what the worker says of its phases."""

    def __init__(self, channel: Channel, faults: Faults):
        self._channel, self._faults = channel, faults

    @property
    def stop_requested(self) -> bool:
        """Whether the worker was asked to stop."""
        return self._channel.stop_requested

    @stop_requested.setter
    def stop_requested(self, value: bool) -> None:
        self._channel.stop_requested = value

    def say(self, kind: str, **fields: Any) -> None:
        """Say it, then suffer what is due."""
        self._channel.say(kind, **fields)
        phase = str(fields.get("phase"))
        # `saving` is a matter of the store: what is said there is said before a stop alone.
        if kind == "progress" and phase in FaultPhase.__members__ and phase != FaultPhase.saving.name:
            self._faults.reach(FaultPhase[phase], fields.get("step"))
        if kind == "event" and fields.get("event") == "restored":
            self._faults.restored(fields["details"]["step"])
        if kind == "event" and fields.get("event") == "checkpoint_saved":
            self._faults.saved(fields["details"]["step"])


class FaultyStore:
    """A store whose checkpoint files meet with faults; everything else is the store's own."""

    def __init__(self, store: Store, faults: Faults):
        self._store, self._faults = store, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_buffers(self, name: str, buffers: Sequence[bytes | memoryview]) -> Stored:
        """As the store's own, unless it fails."""
        self._faults.write(name)
        return self._store.put_buffers(name, buffers)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """As the store's own, unless it fails."""
        self._faults.write(name)
        return self._store.put_if_absent(name, data)


def damage_checkpoint(run: RunDir, step: int) -> None:
    """Turn a bit in the middle of the largest file of a checkpoint."""
    files = [stored for stored in run.store.list(f"{checkpoint_name(step)}/") if not stored.name.endswith(MANIFEST)]
    largest = max(files, key=lambda stored: stored.size).name
    data = bytearray(run.store.get(largest))
    data[len(data) // 2] ^= 1
    run.store.put(largest, bytes(data))


def _end(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.1)  # SIGSTOP may reach another thread first
