"""Two plain processes under MultiWorkerMirroredStrategy, nothing around them."""

import json
import os
import subprocess
import sys

from benchmarks.peers.addresses import free_addresses

if "TF_CONFIG" in os.environ:
    from benchmarks.peers.worker_loop import train

    first_step = train()
    if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0:
        print(json.dumps({"first_step": first_step}), flush=True)
    os._exit(0)

workers = free_addresses(2)
children = []
for rank in range(2):
    config = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})
    children.append(subprocess.Popen([sys.executable, __file__], env={**os.environ, "TF_CONFIG": config}))
sys.exit(max(child.wait() for child in children))
