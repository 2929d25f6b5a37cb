"""The real command, whose workers are fake: `python fake_driver.py WORDS`."""

import sys
from functools import partial

from launcher import command, drive

if __name__ == "__main__":
    drive.Orders = partial(drive.Orders, worker="fake_worker")
    sys.exit(command.run(sys.argv[1:]))
