"""Every defence: what it checks, and what stands there when it is off."""

import json
import os
import re
import stat
from collections.abc import Callable
from typing import Any

from tuf.api import _payload as tuf_payload
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.ngclient._internal import trusted_metadata_set as tuf_set
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from appliance.bundle.format import artifact, content, delta, modelpack, oci, rebuild
from appliance.bundle.media import medium, reader
from appliance.bundle.media.medium import read_at_most
from appliance.bundle.take import intake, judge
from appliance.cache import blobs
from appliance.core import commands as words
from appliance.core import signedtime, wire
from appliance.core.ids import digest
from appliance.errors import ApplianceError, CorruptError, SignatureError
from appliance.ledger import commands as command_rows
from appliance.ledger import meta, receipts, streams
from appliance.node import commands, desired, enrolment, fleet
from appliance.sync import batch
from appliance.trust import (
    certificates,
    documents,
    dsse,
    envelope,
    floor,
    listed,
    local,
    metadata,
    publishers,
    remembered,
    scope,
    store,
    workflow,
)
from tests.attacks.switches import (
    ANYTHING,
    MUCH,
    Defence,
    Place,
    being,
    doing_nothing,
    forgiving,
    passing,
    repairing,
)

READ: tuple[Place, ...] = ((medium.FolderMedium, "read"),)
DOCUMENT: tuple[Place, ...] = ((reader.BundleReader, "document"),)

# --- keys and roots -------------------------------------------------------------------------------


def _unsigned(applies: Callable[[Any, str, bytes], bool]) -> Callable[[Any], Any]:
    def instead(original: Any) -> Any:
        def verify(self: Any, role: str, payload: bytes, signatures: Any) -> None:
            if not applies(self, role, payload):
                original(self, role, payload, signatures)

        return verify

    return instead


def _signed_by(what: str, applies: Callable[[Any, str, bytes], bool]) -> Defence:
    owner, name = tuf_payload._DelegatorMixin, "verify_delegate"
    return Defence(what, owner, name, _unsigned(applies), ((owner, name),))


def _of_next_root(delegator: Any, role: str, payload: bytes) -> bool:
    return role == "root" and bool(delegator.version < json.loads(payload)["version"])


def _of_same_root(delegator: Any, role: str, payload: bytes) -> bool:
    return role == "root" and bool(delegator.version == json.loads(payload)["version"])


def _of_role(wanted: str) -> Callable[[Any, str, bytes], bool]:
    return lambda _delegator, role, _payload: role == wanted


OLD_ROOT = _signed_by("a root is signed by enough keys of the one before", _of_next_root)
NEW_ROOT = _signed_by("a root is signed by enough of its own keys", _of_same_root)
SIGNED = {
    role: _signed_by(
        f"{role} is signed by enough of the keys that root names for it", _of_role(role)
    )
    for role in ("timestamp", "snapshot", "targets")
}
SIGNED_BY_PUBLISHER = _signed_by(
    "a publisher's list is signed by enough of the keys that targets name for it",
    lambda _delegator, role, _payload: role.startswith("publisher-"),
)
DISTINCT_KEYS = Defence(
    "a threshold counts distinct public keys, not key ids", scope, "check_keys", passing()
)


def _any_number(original: Any) -> Any:
    def update_root(self: Any, data: bytes) -> Root:
        self.root.version = Metadata[Root].from_bytes(data).signed.version - 1
        return original(self, data)  # type: ignore[no-any-return]

    return update_root


NEXT_ROOT = Defence(
    "a root follows the one before, number by number", TrustedMetadataSet, "update_root",
    _any_number, ((TrustedMetadataSet, "update_root"),),
)  # fmt: skip
FAST_FORWARD = Defence(
    "what replaced keys signed is forgotten", metadata, "_still_signed",
    lambda _: lambda _root, stored: {} if stored is None else stored.by_role(),
)  # fmt: skip
FLOOR_OF_KEY = Defence(
    "what a replaced key said of the time is forgotten", floor, "kept",
    lambda _: lambda rows, _keys: tuple(rows),
)  # fmt: skip

# --- time -----------------------------------------------------------------------------------------

CLOCK = Defence(
    "the clock is believed between the floor and 400 days above it", floor, "now",
    lambda _: lambda _floor, clock: floor.Now(clock, proven=True),
)  # fmt: skip
EXPIRY = {
    kind.type: Defence(
        f"{kind.type} has not expired at the node's time", kind, "is_expired", passing(answer=False)
    )
    for kind in (Root, Timestamp, Snapshot, Targets)
}
ISSUED_FIRST = Defence(
    "a role is issued before it expires", metadata, "_issued", forgiving("at or after the time")
)
ISSUE_TIME = Defence(
    "a role says when it was issued", metadata, "_issue_time", forgiving("x-issued", floor.BUILT)
)
REACH = Defence(
    "online keys move the floor 400 days beyond offline ones at most", signedtime, "REACH",
    lambda original: original * 90,
)  # fmt: skip
REDERIVED = Defence(
    "the floor is derived again from the metadata in force", remembered, "rederive", doing_nothing()
)

# --- metadata -------------------------------------------------------------------------------------


def _of_any_type(original: Any) -> Any:
    def load(role: Any, data: bytes, delegator: Any = None, name: str | None = None) -> Any:
        found = Metadata[Any].from_bytes(data)
        if delegator is not None:
            delegator.verify_delegate(name or role.type, found.signed_bytes, found.signatures)
        return found.signed, found.signed_bytes, found.signatures

    del original
    return load


def _without_memory(role: str) -> Callable[[Any], Any]:
    def instead(original: Any) -> Any:
        def update(self: Any, data: bytes, *args: Any, **kwargs: Any) -> Any:
            self._trusted_set.pop(role, None)
            return original(self, data, *args, **kwargs)

        return update

    return instead


TYPE = Defence("a role's file is of the role's type", tuf_set, "_load_from_metadata", _of_any_type)
REMEMBERED = Defence("the node remembers what is in force", store.TrustStore, "roles", passing())
TIMESTAMP_ROLLBACK = Defence(
    "a newer timestamp never names an older snapshot", TrustedMetadataSet, "update_timestamp",
    _without_memory("timestamp"),
)  # fmt: skip
SNAPSHOT_ROLLBACK = Defence(
    "a newer snapshot never names an older list, and drops none", TrustedMetadataSet,
    "update_snapshot", _without_memory("snapshot"),
)  # fmt: skip
ONE_CONTENT = Defence("equal version means equal bytes", metadata, "_check_one_content", passing())
HASHES = Defence(
    "a file is the one that the role above names by length and hash", MetaFile,
    "verify_length_and_hashes", passing(),
)  # fmt: skip
DESCRIBED = Defence("lengths and hashes are there", metadata, "_check_described", passing())
CAPS = {
    role: Defence(
        f"{role}: at most {size >> 10} KiB are read", workflow.CAPS, role, being(MUCH), READ,
    )
    for role, size in workflow.CAPS.items()
}  # fmt: skip
HINT_CAP = Defence(
    "bundle.json: at most 1 MiB is read", reader, "_MAX_HINT_BYTES", being(MUCH), READ
)
MOST_DELEGATIONS = Defence(
    "at most 256 publishers are asked for",
    scope,
    "MAX_DELEGATIONS",
    being(MUCH),
    ((scope, "publishers"),),
)

# --- what is declared, and who may list what ------------------------------------------------------


def _apart(found: dict[str, Any]) -> None:
    if set(found.get("sync", ())) & set(found.get("keys", ())):
        found["sync"] = [digest("sha256:" + "cc" * 32)[7:]]


def _unchecked_bytes(original: Any) -> Any:
    def document(self: Any, wanted: Any, length: int, cap: int) -> bytes:
        try:
            return original(self, wanted, length, cap)  # type: ignore[no-any-return]
        except ApplianceError as error:
            if "other bytes" not in error.what:
                raise
        with self.open(reader.blob_name(wanted)) as file:
            return read_at_most(file, cap)

    return document


def _nested(original: Any) -> Any:
    def merged(top: Any, below: Any) -> Any:
        for targets in below.values():
            targets.delegations = None
        return original(top, below)

    return merged


class _AnyFamily(dict[str, re.Pattern[str]]):
    """Knows a form for every family, and it allows everything."""

    def get(self, _key: str, _default: Any = None) -> Any:
        return re.compile(r"(?s).*")


EPOCHS = Defence("epochs never go down", meta, "epoch", passing(0))
ORGANISATION = Defence("documents are for the node's organisation", meta, "org", passing())
DIRECTOR_APART = Defence(
    "no key of the director's approves anything", judge, "_check_apart", passing()
)
SYNC_APART = Defence(
    "the keys that instruct are not those that acknowledge", documents, "wire", repairing(_apart),
    ((judge.Judge, "_documents"),),
)  # fmt: skip
DOCUMENT_CAP = Defence(
    "a document has at most 1 MiB", judge, "MAX_DOCUMENT_BYTES", being(MUCH), DOCUMENT
)
DOCUMENT_BYTES = Defence(
    "a document's bytes hash to what is signed, before they are parsed", reader.BundleReader,
    "document", _unchecked_bytes, DOCUMENT,
)  # fmt: skip
SCOPE = Defence("a role lists only what it may", scope, "check_signer", passing())
DELEGATION = Defence(
    "targets delegate exactly a publisher's own models, terminating", scope, "_check_delegation",
    lambda _: lambda name, found: scope.check_keys(name, found.roles[name], found.keys),
    ((scope, "_check_delegation"),),
)  # fmt: skip
NESTED = Defence(
    "a publisher delegates no further", metadata, "_merged", _nested, ((metadata, "_merged"),)
)
FAMILY = Defence(
    "a path is of a family that is imported, and leads nowhere else", scope, "_FAMILIES",
    _AnyFamily, ((scope, "check_wanted"),),
)  # fmt: skip
MEDIA_TYPE = Defence(
    "a path is signed as the media type of its family", scope, "MANIFEST_TYPE", being(ANYTHING),
    ((scope, "check_wanted"), (scope, "check_signer")),
)  # fmt: skip
REVOCATION = Defence("nothing that is denied by name", documents.Revoked, "check", passing())
HINT_NAME = Defence(
    "names from an unsigned hint are harmless text", reader, "_WORD", being(re.compile(r"(?s).*")),
    ((reader.BundleReader, "release"),),
)  # fmt: skip

# --- manifests and bytes --------------------------------------------------------------------------


def _manifest(what: str, change: Callable[[dict[str, Any]], object]) -> Defence:
    places = ((modelpack, "read"), (artifact, "read"))
    return Defence(what, oci, "wire", repairing(change), places)


def _descriptors(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [found["config"], *found["layers"]]


def _without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda found: [blob.pop(name, None) for blob in _descriptors(found)]


def _hashed_anyway(original: Any) -> Any:
    def fetch(*args: Any) -> Any:
        try:
            return original(*args)
        except CorruptError as error:
            if "before its signed length" in error.what:
                raise CorruptError("what is too short holds other bytes as well") from error
            raise

    return fetch


SPACE = Defence(
    "signed lengths fit before a byte is written", intake.Intake, "require_space", doing_nothing()
)
MANIFEST_CAP = Defence(
    "a manifest has at most 4 MiB", intake, "MAX_MANIFEST_BYTES", being(MUCH), DOCUMENT
)
MANIFEST_TYPE = _manifest(
    "a manifest says that it is of the type that is signed",
    lambda found: found.update(mediaType=modelpack.MANIFEST_TYPE),
)
ARTIFACT_TYPE = _manifest(
    "a model's manifest is a ModelPack artifact",
    lambda found: found.update(artifactType=modelpack.ARTIFACT_TYPE),
)
NOT_BOTH = _manifest("a manifest is no index as well", lambda found: found.pop("manifests", None))
NO_URLS = _manifest("no blob lies at an address", _without("urls"))
NO_DATA = _manifest("no blob is inline", _without("data"))
LAYER_TYPE = _manifest(
    "layers are raw: nothing is unpacked",
    lambda found: [
        layer.update(mediaType=modelpack.WEIGHT_TYPE) for layer in found.get("layers", [])
    ],
)
FILE_NAME = Defence(
    "a file's name is plain", content, "NAME", being(re.compile(r"(?s).*")),
    ((modelpack, "read"), (artifact, "read")),
)  # fmt: skip
NO_LINKS = Defence(
    "nothing is read through a link", os, "O_NOFOLLOW", being(0), ((medium.FolderMedium, "open"),)
)
REGULAR = Defence(
    "only regular files are read", stat, "S_ISREG", passing(answer=True),
    ((medium.FolderMedium, "open"),),
)  # fmt: skip
OTHER_BYTES = Defence(
    "a blob hashes to what is signed", blobs.BlobStore, "_fetch",
    forgiving("holds other bytes", answer=True),
)  # fmt: skip
TOO_LONG = Defence(
    "a blob ends at its signed length", blobs.BlobStore, "_fetch",
    forgiving("is longer than its signed length", answer=True),
)  # fmt: skip
TOO_SHORT = Defence(
    "a blob does not end before its signed length",
    blobs.BlobStore,
    "_fetch",
    _hashed_anyway,
    ((blobs.BlobStore, "_fetch"),),
)
HEADER = Defence(
    "a file is what its name says, and says what the manifest says", modelpack, "check", passing()
)
PICKLE = Defence(
    "nothing that runs code when it is opened, whatever its name", content, "_check_magic",
    passing(),
)  # fmt: skip
DISCARDED = Defence(
    "of a refused import nothing stays", blobs.BlobStore, "discard", doing_nothing()
)

# --- deltas ---------------------------------------------------------------------------------------


def _for_this_output(original: Any) -> Any:
    def parse(data: bytes, output: Any) -> Any:
        found = json.loads(data)
        found["output"] = output.to_wire()
        return original(wire.dumps(found), output)

    return parse


RECIPE_OUTPUT = Defence(
    "a recipe is for the blob that is signed",
    delta,
    "parse",
    _for_this_output,
    ((delta, "parse"),),
)
RECIPE_STEPS = Defence(
    "steps stay inside their bases and make up the signed length", delta, "_check", passing()
)
RECIPE_CAP = Defence("a recipe has at most 2 MiB", delta, "MAX_RECIPE_BYTES", being(MUCH), READ)
MOST_STEPS = Defence(
    "a recipe has at most 32,768 steps", delta, "MAX_STEPS", being(MUCH), ((delta, "parse"),)
)
BASES = Defence("a delta's bases are in the store", rebuild, "require_bases", passing())
ACCUSATION = Defence(
    "a base is put away only when it is damaged itself", rebuild, "damaged", lambda _: list
)

# --- at the start ---------------------------------------------------------------------------------


def _only_revoked(_: Any) -> Any:
    def check(self: Any, path: str, manifest: Any, *more: Any) -> None:
        for found in (manifest, *more):
            self.revoked.check(found, path)

    return check


def _of_any_key(original: Any) -> Any:
    def read(state: Any) -> Any:
        try:
            return original(state)
        except SignatureError:
            return Metadata[Targets].from_bytes((state / local.LIST).read_bytes()).signed

    return read


SITE_SIGNED = Defence(
    "the site's list is signed by the site's key", local, "_read", _of_any_key, ((local, "_read"),)
)
SITE_SCOPE = Defence("the site's list names nothing but local/*", local, "_check_path", passing())
SITE_SHADOW = Defence(
    "the site's list takes no name that the organisation has", local, "organisation_models",
    passing(frozenset()),
)  # fmt: skip
LISTED = Defence(
    "what starts is in the newest list",
    listed.Listed,
    "check",
    _only_revoked,
    ((listed.Listed, "check"),),
)

# --- envelopes ------------------------------------------------------------------------------------


def _of_any_slot(original: Any) -> Any:
    def verify(data: bytes, _kind: str, keys: Any, **how: Any) -> Any:
        return original(data, json.loads(data)["payloadType"], keys, **how)

    return verify


def _addressee(name: str) -> Defence:
    def instead(original: Any) -> Any:
        return lambda self: {k: v for k, v in original(self).items() if k != name}

    return Defence(
        f"an envelope's {name} is the node's", envelope.Addressee, "fields", instead,
        ((envelope, "accept"),),
    )  # fmt: skip


def _of_any_batch(original: Any) -> Any:
    def acknowledge(db: Any, stream: Any, upto: int, batch_hash: str) -> Any:
        named = "SELECT hash FROM batches WHERE stream = ? AND first + count - 1 = ?"
        row = db.execute(named, (stream, upto)).fetchone()
        return original(db, stream, upto, row[0] if row else batch_hash)

    return acknowledge


def _counting_on(original: Any) -> Any:
    def standing(db: Any, epoch: int) -> Any:
        return original(db, min(epoch, desired.director_epoch(db)))

    return standing


ENVELOPE_SIGNED = Defence(
    "an envelope is signed by a key that may sign it", dsse, "verifies", passing(answer=True)
)
ENVELOPE_TYPE = Defence(
    "an envelope is of the slot's type", dsse, "verify", _of_any_slot, ((dsse, "verify"),)
)
ENVELOPE_CAP = Defence(
    "an envelope has at most 64 KiB", dsse.verify.__kwdefaults__, "most", being(MUCH),
    ((dsse, "verify"),),
)  # fmt: skip
ONE_MEANING = Defence(
    "no key stands twice in JSON", wire, "_no_duplicates", being(dict), ((wire, "_no_duplicates"),)
)
ADDRESSEE = {name: _addressee(name) for name in ("org", "node", "nodeKey", "dbEpoch")}
DIRECTOR_EPOCH = Defence(
    "a director whose epoch ended is not followed", envelope, "check_director_epoch",
    passing(answer=True),
)  # fmt: skip
ENVELOPE_EXPIRY = Defence(
    "an envelope has not expired at the node's time", envelope, "check_expiry", passing()
)
ORDER = Defence(
    "generations go up, and one number means one content", envelope, "check_order",
    passing(answer=True),
)  # fmt: skip
NEW_DIRECTOR = Defence(
    "a director named anew counts from the start", fleet, "_standing", _counting_on
)
BROUGHT = Defence(
    "a word that names what is not listed waits", fleet.FleetInbox, "_missing", passing("")
)
NONCE = Defence(
    "a time answers the question that waits, once",
    receipts,
    "use_nonce",
    doing_nothing(answer=True),
)
ACKNOWLEDGED = Defence(
    "an acknowledgement names the batch's hash", streams, "acknowledge", _of_any_batch
)
BATCH_SENDER = Defence(
    "a batch is of the stream whose topic it came on", batch, "open_batch",
    forgiving("says stream"),
)  # fmt: skip
UNPACKED_CAP = Defence(
    "a batch unpacks to at most 8 MiB", batch, "_MOST_UNPACKED", being(MUCH), ((batch, "_unpack"),)
)

# --- commands -------------------------------------------------------------------------------------

COMMAND_NONCE = Defence(
    "under unproven time a command names this node's nonce", commands, "_check_nonce", passing()
)
COUNTER = Defence(
    "counters go up, and one number means one command", commands, "_check_counter", passing()
)
NEW_COUNTERS = Defence(
    "a director named anew counts its commands from the start", command_rows, "begin_epoch",
    doing_nothing(),
)  # fmt: skip
DIRECTORS_VERBS = Defence(
    "a verb is one that offline keys let the director use", words, "allowed",
    lambda original: lambda _, site: original(list(words.Verb), site),
)  # fmt: skip
SITES_VERBS = Defence(
    "a verb is one that the site permits", words, "allowed",
    lambda original: lambda director, _: original(director, ", ".join(words.Verb)),
)  # fmt: skip
ARGUMENTS = Defence(
    "a command's arguments make sense", words, "check",
    forgiving("the argument", answer=(words.Verb.RESTART, {})),
)  # fmt: skip
BEGUN = Defence("a counter is used up before the effect", command_rows, "start", doing_nothing())

# --- certificates ---------------------------------------------------------------------------------


CHAIN_CAP = Defence(
    "a chain has at most 64 KiB", certificates, "MAX_CHAIN_BYTES", being(MUCH),
    ((certificates.Chain, "parse"),),
)  # fmt: skip
ISSUER = Defence(
    "a certificate is issued by an authority that offline keys named", enrolment, "check_chain",
    forgiving("no authority"),
)  # fmt: skip
OWN_KEY = Defence(
    "a certificate is for this node's own key", enrolment, "check_chain", forgiving("another key")
)
OWN_NAME = Defence(
    "a certificate is in this node's name", enrolment, "check_chain", forgiving("another name")
)
FOR_CLIENTS = Defence(
    "a certificate is for a client", enrolment, "check_chain", forgiving("not one for a client")
)
IN_FORCE = Defence(
    "a certificate is in force at the node's time", certificates, "_check_dates", passing()
)
OLDER_CHAIN = Defence(
    "a certificate never gives way to an older one", enrolment, "was_issued_by",
    being(lambda *_: False), ((enrolment.Certificates, "_take"),),
)  # fmt: skip
PASSED_SCOPE = Defence(
    "a list that is passed on lists its publisher's own models", publishers, "_check_scope",
    passing(),
)  # fmt: skip
