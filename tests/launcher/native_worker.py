"""A child with a real worker's channel, that waits in C and keeps Python's lock: it can read nothing."""

import ctypes
import os

from trainer.channel import open_channel

open_channel(os.environ, print, is_chief=True).say("event", event="waits", details={})
ctypes.PyDLL(None).read(os.pipe()[0], ctypes.create_string_buffer(1), 1)  # for ever
