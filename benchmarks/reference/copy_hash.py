"""Copy files with two threads, hash them on the way, and bring them to the disk. Nothing else.

Run as ``copy_hash.py TARGET FILE...``. Nothing is verified, resumed, limited or written down: this
is the least that an import of the same bytes could be.
"""

import hashlib
import os
import queue
import sys
import threading
from pathlib import Path

CHUNK = 4 << 20


def copy(source: Path, target: Path) -> str:
    """Copy one file; return its SHA-256."""
    chunks: queue.Queue[bytes] = queue.Queue(8)
    hasher = hashlib.sha256()

    def write() -> None:
        with target.open("wb", buffering=0) as file:
            while chunk := chunks.get():
                file.write(chunk)
            os.fsync(file.fileno())

    writer = threading.Thread(target=write)
    writer.start()
    with source.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            chunks.put(chunk)
            hasher.update(chunk)
    chunks.put(b"")
    writer.join()
    return hasher.hexdigest()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    for name in sys.argv[2:]:
        copy(Path(name), folder / Path(name).name)
