"""Exit codes: the last word of every Convoy process, read by launchers, schedulers and people."""

DONE = 0
FAILED = 1
#: The job was stopped after saving; the same command goes on. (sysexits.h: EX_TEMPFAIL)
STOPPED = 75
#: What was asked cannot be done; asking again changes nothing. (sysexits.h: EX_CONFIG)
BAD_SPEC = 78
#: Ctrl-C, after saving. (128 + SIGINT)
INTERRUPTED = 130
