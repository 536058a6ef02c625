"""The demo as a command runs it: begin, show, stay or end, and leave nothing behind."""

import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from appliance.demo.stack import Addresses, Stack
from appliance.demo.story import DEPLOYMENT, Story, Teller, WitnessProcess
from appliance.demo.supervisor import Supervisor
from appliance.kit.files import translated


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command was told."""

    definition: Path
    cache: Path
    witness: Path | None
    once: bool
    host: str


_SIGNALS = tuple(
    signal.Signals[f"SIG{name}"]
    for name in (
        *("HUP", "INT", "QUIT", "ABRT", "USR1", "USR2", "ALRM"),
        *("TERM", "VTALRM", "PROF", "XCPU", "IO", "PWR"),
    )
)
"""All that would end a process, as far as it can hear of them."""


class _Told(BaseException):
    """A signal asked us to end; not an error that anything should catch."""


def run(options: DemoOptions) -> None:
    """Run the demo; a signal ends the process with status 130, when nothing is left of it.

    Raises:
        ApplianceError: a step did not happen.
    """
    try:
        _listen()
        _run(options)
    except _Told:
        sys.exit(130)


def _run(options: DemoOptions) -> None:
    with _scratch() as scratch, Supervisor(scratch / "log") as supervisor:
        stack = Stack(scratch, supervisor, Addresses.free(options.host))
        witness = None if options.witness is None else WitnessProcess(options.witness, os.getpid())
        try:
            _tell(options, stack, witness)
        finally:
            _ignore()
            if witness is not None:
                witness.end()
            stack.end()


def _tell(options: DemoOptions, stack: Stack, witness: WitnessProcess | None) -> None:
    teller = Teller()
    story = Story(stack, teller, witness)
    story.begin(options.definition, options.cache)
    story.serve()
    story.cut_and_heal()
    story.check()
    if options.once or not sys.stdin.isatty():
        print("\nAll of it happened.")
        return
    print(_next_steps(stack, story.key), flush=True)
    threading.Event().wait()  # until a signal


def _next_steps(stack: Stack, key: str) -> str:
    at = stack.at
    state = f"--state-dir {stack.node_state}"
    return f"""
All of it happened, and goes on until Ctrl-C.

  hub        {at.url(at.hub)}
  OpenAI     {at.url(at.gateway)}/v1   key {key}

  appliance chat {DEPLOYMENT} {state} --key {key}
  appliance status {state}
  appliance get {DEPLOYMENT} {state}
  appliance release {DEPLOYMENT} {state}
  appliance hub nodes --state-dir {stack.hub_state}
  mosquitto_sub -h {at.host} -p {at.broker} -t 'ea1/#' -v
"""


@contextmanager
def _scratch() -> Iterator[Path]:
    folder = Path(tempfile.gettempdir(), f"appliance-demo-{secrets.token_hex(4)}")
    try:
        with translated("making a scratch folder"):
            folder.mkdir()
            folder.chmod(0o711)
            (folder / "log").mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _listen() -> None:
    """End in order at any signal that asks for it."""

    def told(_number: int, _frame: FrameType | None) -> None:
        _ignore()
        raise _Told

    for number in _SIGNALS:
        signal.signal(number, told)


def _ignore() -> None:
    """Let no second Ctrl-C interrupt the cleaning up."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
