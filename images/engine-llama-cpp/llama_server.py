"""The image's entry point: llama-server's flags in, llama.cpp's HTTP server out.

It is the first process of its container, for which the kernel ignores every signal without a
handler of its own: without this one a pod would only end by SIGKILL, when its grace is over.
"""

import os
import signal
import sys

from appliance.runtime.workers.llama_cpp import prepare

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: os._exit(0))
prepare(sys.argv[1:])()
