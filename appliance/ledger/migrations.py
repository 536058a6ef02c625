"""The schema of ``node.db``, in steps that only grow: never edit one that was released."""

from sqlite_utils import Database, Migrations

migrations = Migrations("node")


@migrations()
def m001_streams(db: Database) -> None:
    """The outbox: records wait in ``outbox``, are sealed into ``batches``, go when acknowledged."""
    db.table("meta").create({"key": str, "value": str}, pk="key", strict=True)
    db.table("streams").create(
        {
            "stream": str,
            "next_seq": int,
            "sealed_upto": int,
            "sealed_hash": str,
            "acked_upto": int,
            "acked_hash": str,
        },
        pk="stream",
        not_null={"next_seq", "sealed_upto", "sealed_hash", "acked_upto", "acked_hash"},
        strict=True,
    )
    db.table("outbox").create(
        {"stream": str, "seq": int, "record": str},
        pk=("stream", "seq"),
        not_null={"record"},
        strict=True,
    )
    db.table("batches").create(
        {"stream": str, "first": int, "count": int, "hash": str, "envelope": bytes},
        pk=("stream", "first"),
        not_null={"count", "hash", "envelope"},
        strict=True,
    )


@migrations()
def m002_catalogue(db: Database) -> None:
    """What may be served: one row for each variant, as signed."""
    db.table("variants").create(
        {
            "manifest": str,
            "model": str,
            "version": str,
            "name": str,
            "body": str,
            "imported_at": str,
        },
        pk="manifest",
        not_null={"model", "version", "name", "body", "imported_at"},
        strict=True,
    )
    db.table("variants").create_index(["model", "version", "name"], unique=True)


@migrations()
def m003_desired(db: Database) -> None:
    """What is wanted: the fleet's newest generation, and local words that win over it.

    A local row without a document takes a fleet object away.
    """
    db.table("fleet").create(
        {
            "only": int,
            "director_epoch": int,
            "generation": int,
            "hash": str,
            "documents": str,
        },
        pk="only",
        not_null={"director_epoch", "generation", "hash", "documents"},
        strict=True,
    )
    db.table("local").create(
        {"kind": str, "name": str, "document": str, "by": str, "at": str},
        pk=("kind", "name"),
        not_null={"by", "at"},
        strict=True,
    )


@migrations()
def m004_gateway(db: Database) -> None:
    """API keys by their hash, and how far each usage spool was taken in."""
    db.table("api_keys").create(
        {"id": str, "tenant": str, "sha256": str, "created_at": str},
        pk="id",
        not_null={"tenant", "sha256", "created_at"},
        strict=True,
    )
    db.table("spools").create({"file": str, "offset": int}, pk="file", strict=True)


@migrations()
def m005_floor(db: Database) -> None:
    """Signed times by who signed them, so that a revoked key takes back what it said.

    The single value of before names no key; the rows come again from ``tuf/`` at the next start.
    """
    db.table("floor").create(
        {"key": str, "online": int, "at": str},
        pk=("key", "online"),
        not_null={"at"},
        strict=True,
    )
    db.execute("DELETE FROM meta WHERE key = 'floor'")


@migrations()
def m006_receipts(db: Database) -> None:
    """Receipts as they were signed, and what each deployment was last seen to serve."""
    db.table("receipts").create(
        {"seq": int, "kind": str, "event": str, "hash": str, "envelope": bytes},
        pk="seq",
        not_null={"kind", "event", "hash", "envelope"},
        strict=True,
    )
    db.table("activations").create(
        {"deployment": str, "manifest": str},
        pk="deployment",
        not_null={"manifest"},
        strict=True,
    )


@migrations()
def m007_care(db: Database) -> None:
    """Who needs which blob, how each blob was found last, and who holds what.

    ``blobs.blake3`` is 32 bytes for each piece of the blob, known once its SHA-256 was verified.
    """
    db.table("blobs").create(
        {"digest": str, "size": int, "blake3": bytes, "verified_at": str, "state": str},
        pk="digest",
        not_null={"size", "state"},
        strict=True,
    )
    db.table("needs").create(
        {"manifest": str, "digest": str, "size": int},
        pk=("manifest", "digest"),
        not_null={"size"},
        strict=True,
    )
    db.table("needs").create_index(["digest"])
    db.table("scrub").create(
        {"only": int, "digest": str, "piece": int},
        pk="only",
        not_null={"digest", "piece"},
        strict=True,
    )
    db.table("uses").create(
        {"manifest": str, "since": str, "used_at": str},
        pk="manifest",
        not_null={"since"},
        strict=True,
    )
    db.table("choices").create(
        {"deployment": str, "chosen": str, "serving": str, "previous": str},
        pk="deployment",
        not_null={"chosen"},
        strict=True,
    )
    db.table("site_pins").create(
        {"manifest": str, "why": str, "by": str, "at": str},
        pk="manifest",
        not_null={"why", "by", "at"},
        strict=True,
    )


@migrations()
def m008_artefacts(db: Database) -> None:
    """What came that is no model: images, files of a kind, bills of materials."""
    db.table("artefacts").create(
        {"path": str, "manifest": str, "line": str, "body": str, "imported_at": str},
        pk="path",
        not_null={"manifest", "line", "body", "imported_at"},
        strict=True,
    )
    db.table("artefacts").create_index(["line"])


@migrations()
def m009_mirror(db: Database) -> None:
    """Custom resources as last seen, which datastore that was, and what it is to hear from us.

    What these mean is in ``core/mirror.py``.
    """
    db.table("mirror").create(
        {
            "kind": str,
            "name": str,
            "owner": str,
            "uid": str,
            "epoch": int,
            "projected": int,
            "spec": str,
            "labels": str,
            "annotations": str,
        },
        pk=("kind", "name"),
        not_null={"owner", "uid", "epoch", "projected", "spec", "labels", "annotations"},
        strict=True,
    )
    db.table("datastore").create(
        {
            "only": int,
            "cluster": str,
            "namespace": str,
            "definitions": str,
            "version": int,
            "epoch": int,
        },
        pk="only",
        not_null={"cluster", "namespace", "definitions", "version", "epoch"},
        strict=True,
    )
    db.table("asked").create(
        {"kind": str, "name": str, "verb": str, "uid": str},
        pk=("kind", "name"),
        not_null={"verb", "uid"},
        strict=True,
    )


@migrations()
def m010_gpus(db: Database) -> None:
    """Every GPU that was ever seen here, and why one is fenced; a fence has all four, or none."""
    db.table("gpus").create(
        {
            "uuid": str,
            "name": str,
            "seen_at": str,
            "reason": str,
            "message": str,
            "fenced_by": str,
            "fenced_at": str,
        },
        pk="uuid",
        not_null={"seen_at"},
        strict=True,
    )


@migrations()
def m011_budgets(db: Database) -> None:
    """How many bytes each stream may take, and how many it takes: see ``ledger/sizes.py``."""
    db.table("budgets").create(
        {"stream": str, "most": int}, pk="stream", not_null={"most"}, strict=True
    )
    db.table("counted").create(
        {"stream": str, "upto": int}, pk="stream", not_null={"upto"}, strict=True
    )
    db.table("levels").create(
        {"stream": str, "every_s": int, "first": int, "bytes": int},
        pk=("stream", "every_s"),
        not_null={"first", "bytes"},
        strict=True,
    )


@migrations()
def m012_commands(db: Database) -> None:
    """What the hub commanded and how it ended; what generations said; why local words hold."""
    db.table("commands").create(
        {
            "counter": int,
            "hash": str,
            "verb": str,
            "state": str,
            "at": str,
            "outcome": bytes,
            "audit_seq": int,
        },
        pk="counter",
        not_null={"hash", "verb", "state", "at"},
        strict=True,
    )
    db.table("generations").create(
        {"generation": int, "digest": str},
        pk="generation",
        not_null={"digest"},
        strict=True,
    )
    db.table("overrides").create(
        {
            "kind": str,
            "name": str,
            "mode": str,
            "reason": str,
            "until": str,
            "by": str,
            "at": str,
        },
        pk=("kind", "name"),
        not_null={"mode", "reason", "by", "at"},
        strict=True,
    )


@migrations()
def m013_audit(db: Database) -> None:
    """Audit records as they were linked, kept here after the hub has acknowledged them.

    What an older release had acknowledged is gone, so keeping begins at the head of today.
    """
    db.table("audit").create(
        {"epoch": str, "seq": int, "record": str},
        pk=("epoch", "seq"),
        not_null={"record"},
        strict=True,
    )
    db.execute(
        "INSERT INTO meta SELECT 'audit-kept', value FROM meta WHERE key = 'audit-head'"
        " ON CONFLICT DO NOTHING"
    )
