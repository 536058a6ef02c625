"""llama.cpp's HTTP server from the ``xllamacpp`` wheel, with llama-server's own flags.

``prepare`` runs while the process still has its rights, and imports all that it needs; what it
returns runs after they were given up, when the interpreter's own files may be out of reach.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import xllamacpp

_POOLING = {"mean": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN}


def prepare(arguments: Sequence[str]) -> Callable[[], NoReturn]:
    """Return what serves until a signal ends the process; it raises SystemExit when it cannot."""
    options = _parser().parse_args(arguments)
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.hostnames = [options.host]
    params.port = options.port
    params.model_alias = {options.alias}
    params.n_ctx = options.ctx_size
    params.n_parallel = options.parallel
    params.cpuparams.n_threads = options.threads
    params.n_gpu_layers = options.n_gpu_layers
    params.cache_ram_mib = options.cache_ram
    params.verbosity = options.verbosity
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_MMAP
    params.endpoint_metrics = options.metrics
    params.offline = options.offline
    params.warmup = not options.no_warmup
    params.ui = False
    params.embedding = options.embeddings
    if options.pooling:
        params.pooling_type = _POOLING[options.pooling]

    def serve() -> NoReturn:
        try:
            server = xllamacpp.Server(params)
        except RuntimeError as error:
            sys.exit(f"llama.cpp would not start: {error}")
        while server:
            signal.pause()
        sys.exit("llama.cpp's server is gone")

    return serve


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llama-cpp worker")
    parser.add_argument("--model", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=8080)  # of a host that is no socket's path
    parser.add_argument("--alias", required=True)
    parser.add_argument("--ctx-size", type=int, required=True)
    parser.add_argument("--parallel", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--n-gpu-layers", type=int, default=-1)  # as many as there is memory for
    parser.add_argument("--cache-ram", type=int, default=64)
    parser.add_argument("--verbosity", type=int, default=1)
    parser.add_argument("--pooling", choices=sorted(_POOLING))
    for flag in ("--metrics", "--offline", "--no-warmup", "--embeddings"):
        parser.add_argument(flag, action="store_true")
    return parser
