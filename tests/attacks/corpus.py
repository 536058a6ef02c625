"""Every attack. To add one, write a function in the file of its subject; see ``attack``."""

from tests.attacks import (
    on_bytes,
    on_certificates,
    on_commands,
    on_contents,
    on_envelopes,
    on_keys,
    on_metadata,
    on_sync,
)
from tests.attacks.attack import ALL
from tests.attacks.switches import Defence

PARTS = (
    on_keys,
    on_metadata,
    on_contents,
    on_bytes,
    on_envelopes,
    on_sync,
    on_commands,
    on_certificates,
)
ATTACKS = tuple(ALL.values())
DEFENCES: tuple[Defence, ...] = tuple(
    dict.fromkeys(d for a in ATTACKS for d in (a.defence, a.twin) if d is not None)
)
