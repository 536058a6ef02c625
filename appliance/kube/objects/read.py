"""From a custom resource to the document it is. Pure.

A server that knows CEL refused what is wrong already; an older one did not, and one whose
definitions were replaced may hold what they would refuse. So everything is read as if it came from
a stranger, by the same code that reads ``appliance apply``'s files, and what is wrong becomes a
condition in the same words: the object stays, and nothing is done about it.

Of the metadata only what people write is read, by name: what servers add, today and in later
versions, is no part of a document.
"""

from typing import Any

from appliance.core import reading
from appliance.core.documents import Document
from appliance.core.state import Condition, Truth
from appliance.errors import BadDocumentError
from appliance.kube.words.owned import MOST_NOTES, weight

Json = dict[str, Any]

INVALID = "Invalid"
_READ = ("name", "namespace", "labels", "annotations")
_KUBECTL = "kubectl.kubernetes.io/"


def document(resource: Json) -> Document | Condition:
    """Return the document that a custom resource is, or ``Ready=False`` with what is wrong in it.

    Defaults that a server filled in are left out again: what nobody wrote is nobody's word.
    """
    metadata = {k: v for k, v in resource.get("metadata", {}).items() if k in _READ}
    if isinstance(notes := metadata.get("annotations"), dict):
        metadata["annotations"] = {k: v for k, v in notes.items() if not k.startswith(_KUBECTL)}
    if (size := _weight(metadata)) > MOST_NOTES:
        why = f"its labels and annotations have {size} characters; allowed: {MOST_NOTES}"
        return Condition("Ready", Truth.FALSE, INVALID, why)
    kept = {k: v for k, v in resource.items() if k in ("apiVersion", "kind", "spec")}
    where = f"{metadata.get('namespace', '')}/{metadata.get('name', '')}".lstrip("/")
    try:
        found = reading.from_wire({**kept, "metadata": metadata}, where)
        return type(found).model_validate(
            found.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        )
    except BadDocumentError as error:
        said = error.what.replace(f"{where}: ", "").replace("\n  ", "; ")
        return Condition("Ready", Truth.FALSE, INVALID, said)


def _weight(metadata: Json) -> int:
    notes = (metadata.get(name) for name in ("labels", "annotations"))
    return weight(*(one for one in notes if isinstance(one, dict)))
