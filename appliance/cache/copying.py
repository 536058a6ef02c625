"""Copying with hashing, at the speed of the slowest of three: reading, hashing, writing.

Each has a thread of its own (the reader is the caller's), and a few buffers go round between them.
What was written is brought to the disk every ``FLUSH_BYTES``, so that an interrupted copy loses no
more than that, and so that the end does not wait for everything at once.
"""

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import hashlib

BUFFER_BYTES = 4 << 20
BUFFERS = 6
FLUSH_BYTES = 64 << 20

Progress = Callable[[int], None]


class _Buffer:
    """Bytes that go round; free again when both the hasher and the writer are done with them."""

    def __init__(self) -> None:
        self.whole = memoryview(bytearray(BUFFER_BYTES))
        self.filled = self.whole[:0]
        self._lock = threading.Lock()
        self._users = 0

    def fill(self, count: int) -> None:
        self.filled = self.whole[:count]
        self._users = 2

    def left(self) -> bool:
        """Say that one user is done; return whether it was the last."""
        with self._lock:
            self._users -= 1
            return self._users == 0


class _Stage(threading.Thread):
    """A thread that does one thing with each buffer, in order; an error ends it."""

    def __init__(self, work: Callable[[memoryview], None], free: "queue.Queue[_Buffer]") -> None:
        super().__init__(daemon=True)
        self.todo: queue.Queue[_Buffer | None] = queue.Queue()
        self.error: BaseException | None = None
        self._work = work
        self._free = free

    def run(self) -> None:
        while (buffer := self.todo.get()) is not None:
            if self.error is None:
                try:
                    self._work(buffer.filled)
                except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
                    self.error = error
            if buffer.left():
                self._free.put(buffer)


def copy_hashed(
    source: BinaryIO, target: int, length: int, hasher: "hashlib._Hash", told: Progress
) -> int:
    """Copy up to ``length`` bytes from ``source`` to the descriptor ``target``, hashing them.

    Args:
        source: Read with ``readinto`` until ``length`` or its end, never beyond.
        target: Written at its present position, and on the disk when this returns or raises.
        length: The most bytes to copy.
        hasher: Updated with every byte copied.
        told: Told the number of bytes after each buffer, on this thread.

    Returns:
        How many bytes were copied; fewer than ``length`` when the source ended.

    Raises:
        OSError: the target could not be written, or what ``source`` raises.
    """
    free: queue.Queue[_Buffer] = queue.Queue()
    for _ in range(min(BUFFERS, -(-length // BUFFER_BYTES))):
        free.put(_Buffer())
    with ThreadPoolExecutor(1) as flusher:
        writer = _Writer(target, flusher)
        stages = (_Stage(hasher.update, free), _Stage(writer.write, free))
        for stage in stages:
            stage.start()
        try:
            return _read(source, length, free, stages, told)
        finally:
            for stage in stages:
                stage.todo.put(None)
            for stage in stages:
                stage.join()
            writer.flush()
            for stage in stages:
                if stage.error is not None:
                    raise stage.error


def _read(
    source: BinaryIO,
    length: int,
    free: "queue.Queue[_Buffer]",
    stages: tuple[_Stage, _Stage],
    told: Progress,
) -> int:
    done = 0
    while done < length and not any(stage.error for stage in stages):
        buffer = free.get()
        count, error = _fill(source, buffer.whole[: min(BUFFER_BYTES, length - done)])
        if count:
            buffer.fill(count)
            for stage in stages:
                stage.todo.put(buffer)
            done += count
            told(count)
        if error is not None:
            raise error
        if not count:
            break
    return done


def _fill(source: BinaryIO, into: memoryview) -> tuple[int, Exception | None]:
    """Fill a buffer as far as the source has bytes; servers give them in small pieces.

    Returns how many came, and what ended it: nothing that came before an error is lost.
    """
    done = 0
    try:
        while done < len(into) and (count := source.readinto(into[done:])):  # type: ignore[attr-defined]
            done += count
    except Exception as error:  # noqa: BLE001 - raised by the caller, after what came is written
        return done, error
    return done, None


class _Writer:
    """Writes, and has the disk take what was written while more is being written."""

    def __init__(self, target: int, flusher: ThreadPoolExecutor) -> None:
        self._target = target
        self._flusher = flusher
        self._unflushed = 0
        self._flushing: Future[None] | None = None

    def write(self, data: memoryview) -> None:
        self._unflushed += len(data)
        while data:
            data = data[os.write(self._target, data) :]
        if self._unflushed >= FLUSH_BYTES:
            self._wait()
            self._flushing = self._flusher.submit(os.fdatasync, self._target)
            self._unflushed = 0

    def flush(self) -> None:
        """Return when everything is on the disk."""
        self._wait()
        os.fsync(self._target)

    def _wait(self) -> None:
        if self._flushing is not None:
            self._flushing.result()
            self._flushing = None


def hash_file(file: BinaryIO, length: int, hasher: "hashlib._Hash", told: Progress) -> None:
    """Hash the first ``length`` bytes of a file; fewer when it is shorter."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    while length and (count := file.readinto(buffer[: min(BUFFER_BYTES, length)])):  # type: ignore[attr-defined]
        hasher.update(buffer[:count])
        length -= count
        told(count)
