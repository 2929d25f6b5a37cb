"""The real command, whose workers are fake: `python fake_driver.py WORDS`."""

import os
import sys
from functools import partial

from launcher import command, drive, lease

if __name__ == "__main__":
    lease.RENEW_S = float(os.environ.get("FAKE_RENEW_S", lease.RENEW_S))
    drive.Orders = partial(drive.Orders, worker="fake_worker")
    sys.exit(command.run(sys.argv[1:]))
