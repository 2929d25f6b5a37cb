"""The entry: `python launcher/run.py [job=VERB] [group=option] [key=value]`, installed as the command `convoy`.

What it does is in `launcher/command.py`, whose imports take a moment; a Ctrl-C is answered from the first one on.
"""

import importlib
import os
import signal
import sys


def main() -> None:
    """The process: its arguments in, its exit code out."""
    waits = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if waits:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # nothing is begun: there is nothing to clean up
    importlib.import_module("launcher.streams").open_all()
    command = importlib.import_module("launcher.command")
    if waits:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(command.run(sys.argv[1:]))


if __name__ == "__main__":
    # Python put launcher/ first, where a file could shadow a standard module.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    main()
