"""Print what the driver that this process finds says of the health of GPUs."""

import dataclasses
import json
import sys
import threading
from typing import Any

from appliance.hardware import nvidia

heard: list[Any] = []
troubles: list[int] = []
came = threading.Event()


def hear(*what: object) -> None:
    heard.append(what)
    came.set()


def trouble() -> None:
    troubles.append(1)
    came.set()


watch = nvidia.XidWatch(hear, trouble)
untold = watch.note
watch.start()
for _ in range(500):
    if came.wait(0.01) or (watch.note != untold and (not watch.watched or "noisy" not in sys.argv)):
        break
said = {"note": watch.note, "watched": sorted(watch.watched), "heard": heard}
watch.stop()
pids = {u: p if p is None else sorted(p) for u, p in nvidia.processes().items()}
health = dataclasses.asdict(nvidia.health())
loads = [dataclasses.asdict(load) for load in nvidia.loads()]
rest = {"health": health, "troubles": len(troubles), "processes": pids, "loads": loads}
print(json.dumps({**said, **rest}))
