"""Whatever a manifest says, reading it ends in what it describes, or in one refusal."""

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from appliance.bundle.format import artifact, content, modelpack, oci
from appliance.bundle.format.artifact import NamedBlob
from appliance.bundle.format.content import Facts
from appliance.bundle.format.oci import Descriptor
from appliance.core import wire
from appliance.core.definitions import BundleFiles, BundleModel
from appliance.core.ids import Digest
from appliance.core.model import FileKind, ModelFile
from appliance.errors import MalformedError
from tests.helpers.signing import digest_of

DIGEST = Digest(digest_of(b"it"))
MODEL = BundleModel.model_validate(
    {"name": "small", "version": "1", "publisher": "acme", "licence": "MIT",
     "variants": [{"name": "Q4_0", "source": {"file": "x"}}]}
)  # fmt: skip
PART = BundleFiles.model_validate(
    {"kind": "k3s", "name": "k3s", "version": "1", "files": [{"source": {"file": "k3s"}}]}
)
KINDS = {"x.gguf": FileKind.WEIGHT, "tokenizer.json": FileKind.CONFIG, "README.md": FileKind.DOC}
PACK, _ = modelpack.build(
    MODEL, "Q4_0", [ModelFile(name, DIGEST, 7, kind) for name, kind in KINDS.items()],
    Facts("gguf", None, 1, 1),
)  # fmt: skip
GOOD: dict[str, bytes] = {
    "models/acme/small/1/Q4_0": PACK,
    "files/k3s/k3s/1": artifact.files_manifest(PART, [NamedBlob("k3s", DIGEST, 3)]),
    "boms/all/1/sbom": artifact.bom_manifest(b"{}", "x", Descriptor(DIGEST, 5, oci.INDEX_TYPE)),
}

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.text(max_size=20),
    st.sampled_from(["../x", "/etc/passwd", ".x", "a/b.json", oci.MANIFEST_TYPE, DIGEST, "x.py"]),
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of everything inside a JSON value."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        inner = list(value.items() if isinstance(value, dict) else enumerate(value))
    return [path, *(found for key, one in inner for found in places(one, (*path, key)))]


@given(path=st.sampled_from(sorted(GOOD)), data=st.data(), value=values)
def test_one_changed_value_is_read_or_refused(path: str, data: st.DataObject, value: Any) -> None:
    manifest = copy.deepcopy(wire.loads(GOOD[path], what="it"))
    place = data.draw(st.sampled_from([p for p in places(manifest) if p]))
    above = manifest
    for key in place[:-1]:
        above = above[key]
    above[place[-1]] = value
    raw = wire.dumps(manifest)
    try:
        if path.startswith("models/"):
            pack = modelpack.read(path, DIGEST, raw)
            assert pack.variant.path == path
            content.check_together(pack.variant.files)
            for file in pack.variant.files:
                assert content.check_name(file.path, file.kind) == file.path
        else:
            found = artifact.read(path, DIGEST, raw)
            assert found.path == path
            assert all(content.NAME.fullmatch(file.name) for file in found.files)
    except MalformedError:
        pass


@given(text=st.text(max_size=60), kind=st.sampled_from(FileKind))
def test_a_name_that_passes_stays_inside_its_folder(text: str, kind: FileKind) -> None:
    try:
        name = content.check_name(text, kind)
    except MalformedError:
        return
    assert not name.startswith("/")
    assert all(part and not part.startswith(".") for part in name.split("/"))
    assert name.isascii()
