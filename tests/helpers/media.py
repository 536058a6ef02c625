"""Media that fail, as sticks do."""

import io


class Worn(io.BytesIO):
    """A file on a bad block: it can be opened, and not read."""

    def read(self, _size: int | None = -1, /) -> bytes:
        raise OSError(5, "Input/output error")
