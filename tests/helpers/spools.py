"""Traces as traffic, a gateway's spool, and the journal of what must arrive at the hub."""

import csv
import datetime
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.core.usage import UsageRecord
from appliance.kit.clock import rfc3339


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trace: seconds after its beginning, and tokens."""

    at: float
    prompt: int
    completion: int


def traces_folder() -> Path | None:
    """Return where the traces are: ``TRACES``, or beside the project; None when nowhere."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("TRACES", beside))
    return folder if list(folder.glob("AzureLLMInferenceTrace_*.csv")) else None


def read_traces(folder: Path) -> list[Request]:
    """Return both traces as one hour of requests, by time."""
    found = []
    for path in sorted(folder.glob("AzureLLMInferenceTrace_*.csv")):
        with path.open(newline="") as file:
            rows = [(_moment(r["TIMESTAMP"]), r) for r in csv.DictReader(file)]
        first = rows[0][0]
        found += [
            Request((at - first) % 3600, int(r["ContextTokens"]), int(r["GeneratedTokens"]))
            for at, r in rows
        ]
    return sorted(found, key=lambda request: request.at)


def _moment(text: str) -> float:
    whole, _, fraction = text.partition(".")
    at = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.UTC)
    return at.timestamp() + float(f"0.{fraction or 0}")


def digest(content: dict[str, Any]) -> str:
    """Return the SHA-256 that a journal names a record by; the comparer counts it for itself."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """What who makes records says that it made, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def numbered(self, node: str, stream: str, seq: int, sha256: str) -> None:
        self.line({"node": node, "stream": stream, "seq": seq, "sha256": sha256})

    def sure(self, node: str, source: str, name: str, sha256: str) -> None:
        line = {"node": node, "stream": "usage", "source": source, "id": name}
        self.line({**line, "sha256": [sha256], "phase": "sure"})

    def line(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content) + "\n")  # one call: threads share it

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Spool:
    """A gateway's spool as the controller finds it: one file that is locked, older ones finished.

    A request whose end is never written counts as cut once nobody holds its file.
    """

    def __init__(self, folder: Path, node: str, journal: Journal) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._node, self._journal = node, journal
        self._descriptor: int | None = None
        self._open: list[dict[str, Any]] = []
        self._source = ""
        self._files = 0
        self._made = 0

    @property
    def open_requests(self) -> int:
        return len(self._open)

    def serve(self, requests: Iterable[Request], began: datetime.datetime) -> None:
        """Write down the requests of one tick; the last one stays open until the next."""
        if self._descriptor is None:
            self._begin_file()
        assert self._descriptor is not None
        ended, self._open = self._open, []
        lines = [self._end(record) for record in ended]
        for request in requests:
            record = self._record(request, began)
            lines.append(spool_line("begin", record))
            if self._open:
                lines.append(self._end(self._open.pop()))
            self._open.append(record)
        os.write(self._descriptor, b"".join(lines))

    def close(self) -> None:
        """Let go of the file, as a gateway that ends or is killed; what is open in it is cut."""
        for record in self._open:
            self._journal.sure(self._node, self._source, record["id"], _sha256(record))
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._open, self._descriptor = [], None

    def _begin_file(self) -> None:
        self._files += 1
        self._source = f"usage-{self._files:020d}-1.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = os.open(self.folder / self._source, flags, 0o640)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def _record(self, request: Request, began: datetime.datetime) -> dict[str, Any]:
        self._made += 1
        name = f"{self._node}-{self._made}"
        tokens = {"prompt_tokens": request.prompt, "completion_tokens": request.completion}
        return {**USUAL_REQUEST, **tokens, "id": name, "request_id": name, "at": rfc3339(began)}

    def _end(self, record: dict[str, Any]) -> bytes:
        ended = {**record, "status": 200, "outcome": "ok", "duration_ms": 1.5}
        self._journal.sure(self._node, self._source, record["id"], _sha256(ended))
        return spool_line("end", ended)


USUAL_REQUEST = UsageRecord(
    "", "", "", "/v1/chat/completions", "small", "key-1", stream=True
).to_wire()


def spool_line(phase: str, record: dict[str, Any]) -> bytes:
    """Return a line of a spool, as a gateway writes it."""
    return json.dumps({"v": 1, "phase": phase, "record": record}).encode() + b"\n"


def _sha256(record: dict[str, Any]) -> str:
    return digest({"at": record["at"], "kind": "request", "body": record})
