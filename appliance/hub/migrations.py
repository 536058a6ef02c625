"""The schema of ``hub.db``, in steps that only grow: never edit one that was released."""

from sqlite_utils import Database, Migrations

migrations = Migrations("hub")


@migrations()
def m001_nodes(db: Database) -> None:
    """Nodes by their key, what they reported last, and when they were last heard."""
    db.table("nodes").create(
        {
            "node": str,
            "key": str,
            "admitted_at": str,
            "db_epoch": str,
            "link": str,
            "reported": str,
            "report": int,
            "heard_at": str,
        },
        pk="node",
        not_null={"key", "admitted_at"},
        strict=True,
    )


@migrations()
def m002_log(db: Database) -> None:
    """The log, as far as it came in without a gap: positions, batches, records."""
    db.table("positions").create(
        {"node": str, "epoch": str, "stream": str, "upto": int, "hash": str},
        pk=("node", "epoch", "stream"),
        not_null={"upto", "hash"},
        strict=True,
    )
    db.table("batches").create(
        {
            "node": str,
            "epoch": str,
            "stream": str,
            "first": int,
            "count": int,
            "hash": str,
            "at": str,
        },
        pk=("node", "epoch", "stream", "first"),
        not_null={"count", "hash", "at"},
        strict=True,
    )
    db.table("records").create(
        {"node": str, "epoch": str, "stream": str, "seq": int, "record": str},
        pk=("node", "epoch", "stream", "seq"),
        not_null={"record"},
        strict=True,
    )
    db.table("refusals").create(
        {"id": int, "at": str, "node": str, "topic": str, "code": str, "why": str},
        pk="id",
        strict=True,
    )


@migrations()
def m003_desired(db: Database) -> None:
    """What the fleet asks of each node, and the envelope that says so.

    The envelope is kept: a generation must always be the same bytes.
    """
    db.table("documents").create(
        {"node": str, "kind": str, "name": str, "document": str},
        pk=("node", "kind", "name"),
        not_null={"document"},
        strict=True,
    )
    db.table("generations").create(
        {"node": str, "generation": int, "db_epoch": str, "envelope": bytes, "sealed_at": str},
        pk="node",
        not_null={"generation"},
        strict=True,
    )


@migrations()
def m004_epochs(db: Database) -> None:
    """The ledgers that a node ever reported from."""
    db.table("epochs").create({"node": str, "epoch": str}, pk=("node", "epoch"), strict=True)


@migrations()
def m005_receipts(db: Database) -> None:
    """Receipts as nodes signed them; two contents of one number stand side by side.

    A node of which two histories are known is a suspect from then on.
    """
    db.table("receipts").create(
        {
            "id": int,
            "node": str,
            "epoch": str,
            "seq": int,
            "hash": str,
            "previous": str,
            "kind": str,
            "issued": str,
            "audit_seq": int,
            "audit_hash": str,
            "at": str,
            "envelope": bytes,
        },
        pk="id",
        not_null={"node", "epoch", "seq", "hash", "previous", "kind", "issued", "audit_seq",
                  "audit_hash", "at", "envelope"},
        strict=True,
    )  # fmt: skip
    db.table("suspects").create({"node": str, "why": str}, pk="node", not_null={"why"}, strict=True)
    db.table("receipts").create_index(["node", "epoch", "seq", "hash"], unique=True)


@migrations()
def m006_ingest(db: Database) -> None:
    """A record may stand for several numbers; heads of the audit chain, and what was said of them.

    ``heads`` are those that the hub computed itself, one a batch. ``witnesses`` are those that a
    node signed and whose records have not come yet.
    """
    db.table("records").add_column("span", int, not_null_default=1)
    for name in ("heads", "witnesses"):
        db.table(name).create(
            {"node": str, "epoch": str, "seq": int, "hash": str, "at": str},
            pk=("node", "epoch", "seq"),
            not_null={"hash", "at"},
            strict=True,
        )


@migrations()
def m007_identity(db: Database) -> None:
    """Tokens for enrolment, certificates that were issued, keys that are gone for good.

    A token's ``public`` is the public half of the key that its secret makes; that is not kept.
    """
    for column in ("site", "revoked_at"):
        db.table("nodes").add_column(column, str)
    db.table("tokens").create(
        {
            "id": str,
            "node": str,
            "site": str,
            "public": str,
            "replaces": int,
            "made_at": str,
            "expires_at": str,
            "used_by": str,
            "used_at": str,
        },
        pk="id",
        not_null={"node", "site", "public", "replaces", "made_at", "expires_at"},
        strict=True,
    )
    db.table("certificates").create(
        {
            "serial": str,
            "node": str,
            "node_key": str,
            "public": bytes,
            "nonce": str,
            "issued_at": str,
            "expires_at": str,
            "chain": bytes,
            "revoked_at": str,
        },
        pk="serial",
        not_null={"node", "node_key", "public", "nonce", "issued_at", "expires_at", "chain"},
        strict=True,
    )
    db.table("certificates").create_index(["node", "issued_at"])
    db.table("gone_keys").create(
        {"key": str, "node": str, "why": str, "at": str},
        pk="key",
        not_null={"node", "why", "at"},
        strict=True,
    )


@migrations()
def m008_commands(db: Database) -> None:
    """What nodes were commanded; what each generation said, and which one is a return."""
    db.table("commands").create(
        {
            "node": str,
            "counter": int,
            "epoch": str,
            "verb": str,
            "args": str,
            "issued": str,
            "expires": str,
            "state": str,
            "why": str,
            "outcome": str,
            "heard_at": str,
            "envelope": bytes,
        },
        pk=("node", "counter"),
        not_null={"epoch", "verb", "args", "issued", "expires", "state", "why", "envelope"},
        strict=True,
    )
    db.table("words").create(
        {"node": str, "generation": int, "digest": str},
        pk=("node", "generation"),
        not_null={"digest"},
        strict=True,
    )
    db.table("document_sets").create(
        {"digest": str, "documents": str}, pk="digest", not_null={"documents"}, strict=True
    )
    db.table("rollbacks").create(
        {"node": str, "digest": str, "back_to": int, "why": str},
        pk=("node", "digest"),
        not_null={"back_to", "why"},
        strict=True,
    )


@migrations()
def m009_resuming(db: Database) -> None:
    """Nodes that have not said since a restore of this hub which generation they follow."""
    db.table("resuming").create({"node": str}, pk="node", strict=True)
