"""The image's entry point: llama-server's flags in, llama.cpp's HTTP server out.

It is the first process of its container, for which the kernel ignores every signal without a
handler of its own. SIGTERM ends it when its requests are answered, or after EDGE_DRAIN_S seconds.
"""

import argparse
import sys

from appliance.runtime.workers.drain import end_by_signal

parser = argparse.ArgumentParser(add_help=False)
parser.add_argument("--port", type=int, default=8080)
end_by_signal(parser.parse_known_args()[0].port)

from appliance.runtime.workers.llama_cpp import prepare  # noqa: E402 - it may start threads

prepare(sys.argv[1:])()
