"""What the demo shows, step by step; each step is one line when it is done, with its time."""

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.core.documents import API_VERSION
from appliance.core.quantity import format_bytes, format_duration
from appliance.demo.stack import NODE, Stack
from appliance.errors import PeerUnreachableError, SignatureError

DEPLOYMENT = "assistant"
MODEL = "smollm2-135m-instruct"
_PROMPT = "Say in one sentence what a factory is."


@dataclass(frozen=True, slots=True)
class Chat:
    """What a chat through the gateway gave."""

    text: str
    pieces: int
    first_s: float


class Teller:
    """Prints steps. Standard output is for people; nothing else goes there."""

    def __init__(self) -> None:
        self._number = 0

    @contextmanager
    def step(self, text: str) -> Iterator[Callable[[str], None]]:
        """Print one line when the block is done; the block may add to it."""
        began = time.monotonic()
        more: list[str] = []
        yield more.append
        self._number += 1
        taken = format_duration(time.monotonic() - began)
        print(f"{self._number:2d}. {text}{''.join(more)}  [{taken}]", flush=True)

    def say(self, text: str) -> None:
        """Print a line that is no step."""
        print(f"    {text}", flush=True)


class Story:
    """The demo on one stack."""

    def __init__(self, stack: Stack, teller: Teller, witness: "WitnessProcess | None") -> None:
        self._stack = stack
        self._tell = teller
        self._witness = witness
        self._sent = 0
        self.key = ""

    def begin(self, definition: Path, cache: Path) -> None:
        """Up to a node that serves what the hub asked for."""
        stack, step = self._stack, self._tell.step
        with step("Keys: root 1 of 2 and targets offline, director and sync at the hub"):
            stack.prepare()
        with step("Bundle built and signed: ") as add:
            built = stack.build(definition, cache, lambda _what, _done, _total: None)
            add(f"{', '.join(built.models)}, {format_bytes(built.size)}")
        with step("Broker, hub, node and gateway are up, on loopback only; the hub knows the node"):
            stack.start()
            stack.admit()
        with step("Bundle verified and imported: ") as add:
            done = stack.import_bundle(built.folder)
            add(f"{format_bytes(done['copied_bytes'])} copied, every blob by its digest")
        with step("Hub asks the node for a deployment: ") as add:
            generation = stack.ask_through_hub(deployment(replicas=1))
            stack.wait("the deployment", lambda: stack.is_ready(DEPLOYMENT, 1))
            add(f"generation {generation} serves")
        with step("API key made; without one the gateway now answers 401"):
            self.key = stack.create_key("demo")
            self._expect_refusal()
        if self._witness is not None:
            self._witness.start(stack, self.key)

    def serve(self) -> None:
        """A streamed chat."""
        with self._tell.step("Chat streamed through the gateway: ") as add:
            chat = self._chat()
            add(f"{chat.pieces} pieces, the first after {chat.first_s * 1000:.0f} ms")
        self._tell.say(f"> {_PROMPT}")
        self._tell.say(" ".join(chat.text.split()))
        if self._witness is not None:
            self._witness.command(f"bundle {self._stack.scratch / 'bundle'}")
        self._ask_witness(3)

    def cut_and_heal(self) -> None:
        """The link is cut, a change is made here, all goes on, and nothing is lost."""
        stack, step = self._stack, self._tell.step
        with step("Broker stopped: the link to the hub is cut"):
            stack.supervisor.stop("broker")
            stack.wait("the node to notice", lambda: not stack.status()["link"]["connected"])
        with step("A local change in the meantime: ") as add:
            body = {"documents": [deployment(replicas=2)]}
            stack.node().call("POST", "/v1/apply", body)
            stack.wait("the second engine", lambda: stack.is_ready(DEPLOYMENT, 2))
            add("2 replicas serve")
        with step("Still serving without a link: ") as add:
            chat = self._chat()
            self._ask_witness(3)
            waiting = sum(
                s["written"] - s["acknowledged"] for s in stack.status()["streams"].values()
            )
            add(f"{chat.pieces} pieces; {waiting} records wait for the hub")
        with step("Broker back: ") as add:
            stack.supervisor.resume("broker")
            stack.wait("the hub to have every record", stack.all_acknowledged)
            stack.wait("the hub to see the drift", lambda: bool(stack.seen_by_hub()["drift"]))
            add(f"the hub sees drift: {stack.seen_by_hub()['drift'][DEPLOYMENT]}")

    def check(self) -> None:
        """Every record at the hub exactly once; and what the witness has to say.

        Raises:
            PeerUnreachableError: the counts differ, or the witness disagrees.
        """
        with self._tell.step("Every record is at the hub exactly once: ") as add:
            self._stack.wait("a usage record of every request", self._has_all_usage)
            self._stack.wait("the last record", self._stack.all_acknowledged)
            counts = self._compare()
            add(", ".join(f"{count} {name}" for name, count in counts.items()))
        if self._witness is None:
            self._tell.say("no witness was asked; --witness witness/witness.py judges all this")
            return
        with self._tell.step("The witness agrees: ") as add:
            verdict = self._witness.verdict()
            add(
                f"{verdict['requests']} requests, {verdict['batches_seen']} batches on the broker, "
                f"{verdict['network_looks']} looks at the network"
            )

    def _has_all_usage(self) -> bool:
        return bool(self._stack.status()["streams"]["usage"]["written"] == self._sent)

    def _compare(self) -> dict[str, int]:
        counts = {}
        for name, stream in self._stack.status()["streams"].items():
            found = self._records(name)
            numbers = [record["seq"] for record in found]
            if numbers != list(range(1, stream["written"] + 1)):
                raise PeerUnreachableError(
                    f"the node wrote {stream['written']} records of {name}, "
                    f"the hub holds {len(numbers)}, {len(set(numbers))} of them distinct"
                )
            counts[name] = len(numbers)
        return counts

    def _records(self, stream: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            after = found[-1]["seq"] if found else 0
            path = f"/api/v1/nodes/{NODE}/records?stream={stream}&after={after}"
            page = self._stack.hub().call("GET", path)["records"]
            if not page:
                return found
            found += page

    def _chat(self) -> Chat:
        name = f"demo-{uuid.uuid4().hex}"
        body = {
            "model": DEPLOYMENT,
            "messages": [{"role": "user", "content": _PROMPT}],
            "max_tokens": 48,
            "stream": True,
        }
        gateway = self._stack.gateway(self.key)
        began = time.monotonic()
        first, parts, ended = 0.0, list[str](), False
        self._sent += 1
        for line in gateway.lines("POST", "/v1/chat/completions", body, {"X-Request-Id": name}):
            ended = ended or line == "data: [DONE]"
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise PeerUnreachableError(str(event["error"]))
            text = event["choices"][0]["delta"].get("content") or ""
            if text and not first:
                first = time.monotonic() - began
            parts.append(text)
        if self._witness is not None:
            self._witness.command(f"sent {name}")
        if not ended or not "".join(parts).strip():
            raise PeerUnreachableError(f"the stream had {len(parts)} pieces and no proper end")
        return Chat("".join(parts), len(parts), first)

    def _ask_witness(self, count: int) -> None:
        if self._witness is not None:
            self._witness.command(f"ask {count} stream")
            self._sent += count

    def _expect_refusal(self) -> None:
        try:
            self._stack.gateway().call("GET", "/v1/models")
        except SignatureError:
            return
        raise PeerUnreachableError("the gateway answers without a key")


class WitnessProcess:
    """The witness, a program of its own beside the stack."""

    def __init__(self, program: Path, root_pid: int, *, patience_s: int = 60) -> None:
        self._patience_s = patience_s
        self._program = program
        self._root_pid = root_pid
        self._process: subprocess.Popen[str] | None = None

    def start(self, stack: Stack, key: str) -> None:
        """Start it against a stack that runs."""
        at = stack.at
        options = {
            "gateway": at.url(at.gateway),
            "key": key,
            "model": DEPLOYMENT,
            "hub": at.url(at.hub),
            "broker": f"{at.host}:{at.broker}",
            "node": NODE,
            "state": str(stack.node_state),
            "pid": str(self._root_pid),
            "patience": str(self._patience_s),
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(self._program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def command(self, line: str) -> dict[str, Any]:
        """Give it a command and return its answer.

        Raises:
            PeerUnreachableError: it has ended.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerUnreachableError("the witness has ended") from error
        answer = process.stdout.readline()
        if not answer:
            raise PeerUnreachableError("the witness has ended without a word")
        found: dict[str, Any] = json.loads(answer)
        return found

    def verdict(self) -> dict[str, Any]:
        """Return its verdict.

        Raises:
            PeerUnreachableError: it disagrees, with its findings.
        """
        verdict = self.command("verdict")
        if not verdict["ok"]:
            raise PeerUnreachableError("the witness disagrees: " + "; ".join(verdict["findings"]))
        return verdict

    def end(self) -> None:
        """End it, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()


def deployment(*, replicas: int) -> dict[str, Any]:
    """Return the demo's deployment."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {"name": DEPLOYMENT},
        "spec": {"model": MODEL, "context": 1024, "replicas": replicas},
    }
