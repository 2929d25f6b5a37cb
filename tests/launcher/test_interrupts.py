"""A signal that arrives where Python swallows what its handler raises still ends what was begun, without a word."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Each sends this process a SIGINT in one place where nobody can catch what is raised for it.
PLACES = {
    "after a fork, in a hook of logging's": "os.fork() or os._exit(0)",
    "in a finaliser": "type('Gone', (), {'__del__': lambda self: interrupt()})()",
    "in logging, which holds its lock": "logging.addLevelName(type('Level', (int,), {'__hash__': interrupt})(7), 'x')",
}
CODE = """
import ctypes, functools, os, signal, sys, threading, time
# In C: Python looks for signals at the next call of something in Python, wherever that is.
interrupt = functools.partial(ctypes.CDLL(None).kill, os.getpid(), signal.SIGINT)
if "fork" in {place!r}:
    os.register_at_fork(after_in_parent=interrupt)  # before logging does the like
import logging
sys.path.insert(0, sys.argv[1])
from launcher.interrupts import interrupts

def free():
    logging._acquireLock()
    print("free", flush=True)  # nobody else holds it any more

try:
    with interrupts():
        {place}
        time.sleep(10)
        print("swallowed")
except KeyboardInterrupt:
    print("raised", flush=True)
thread = threading.Thread(target=free, daemon=True)
thread.start()
thread.join(5)
os._exit(0)
"""


@pytest.mark.parametrize("place", PLACES)
def test_it_is_heard_wherever_it_arrives(place: str) -> None:
    code = CODE.replace("{place!r}", repr(PLACES[place])).replace("{place}", PLACES[place])
    line = [sys.executable, "-c", code, str(ROOT)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("Ctrl-C: stopping\nraised\nfree\n", "")
