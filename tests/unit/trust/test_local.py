"""What a site approved itself: signed by its own key, below ``local/``, and nothing else."""

import stat
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, TargetFile, Targets

from appliance.core.ids import Digest
from appliance.errors import MalformedError, RefusedError, ScopeError, SignatureError
from appliance.trust import local
from appliance.trust.metadata import SignedTarget
from tests.helpers.signing import ISSUED, digest_of, flip

PATH = "local/mine/1.0.0/Q4_0"
TYPE = "application/vnd.oci.image.manifest.v1+json"


def target(path: str = PATH, data: bytes = b"manifest") -> SignedTarget:
    return SignedTarget(path, Digest(digest_of(data)), len(data), TYPE, "local")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "identity").mkdir()
    local.approve(tmp_path, target(), ISSUED)
    return tmp_path


def test_nothing_is_listed_before_anything_was_approved(tmp_path: Path) -> None:
    assert local.listed(tmp_path) == {}
    assert not (tmp_path / local.KEY).exists()


def test_what_was_approved_is_listed_by_a_key_that_only_its_owner_reads(state: Path) -> None:
    assert local.listed(state) == {PATH: target()}
    assert stat.S_IMODE((state / local.KEY).stat().st_mode) == 0o600


def test_what_comes_later_stands_beside_it_and_what_is_withdrawn_goes(state: Path) -> None:
    key = (state / local.KEY).read_bytes()
    other = target("local/other/1/Q8_0")
    local.approve(state, other, ISSUED)
    local.approve(state, target(data=b"another"), ISSUED)
    assert local.listed(state) == {PATH: target(data=b"another"), other.path: other}
    local.withdraw(state, [PATH, "local/unknown/1/x"], ISSUED)
    assert local.listed(state) == {other.path: other}
    assert (state / local.KEY).read_bytes() == key
    assert Metadata[Targets].from_file(str(state / local.LIST)).signed.version == 4


def test_a_name_that_the_organisation_takes_later_is_left_out(state: Path) -> None:
    taken = local.organisation_models(
        ["models/acme/mine/1.0.0/Q4_0", "releases/x/1.json", "images/other/1"]
    )
    assert taken == {"mine"}
    assert local.listed(state, taken) == {}
    assert local.listed(state, ["other"]) == {PATH: target()}


@pytest.mark.parametrize(
    "path",
    ["models/acme/small/1/Q4_0", "local/mine/1", "local/a/b/c/d", "images/a/1", "local//1/x", ""],
)
def test_the_site_signs_nothing_else(state: Path, path: str) -> None:
    with pytest.raises(ScopeError):
        local.approve(state, target(path), ISSUED)
    assert local.listed(state) == {PATH: target()}


def test_a_list_that_another_key_signed_is_not_believed(state: Path) -> None:
    (state / local.KEY).unlink()
    with pytest.raises(SignatureError, match="its key is not"):
        local.listed(state)
    (state / "elsewhere" / "identity").mkdir(parents=True)
    local.approve(state / "elsewhere", target("local/evil/1/x"), ISSUED)
    (state / "elsewhere" / local.KEY).rename(state / local.KEY)
    with pytest.raises(SignatureError, match="not signed by this site's key"):
        local.listed(state)
    with pytest.raises(SignatureError):
        local.approve(state, target("local/more/1/x"), ISSUED)


def test_a_list_that_was_changed_is_not_believed(state: Path) -> None:
    path = state / local.LIST
    good = path.read_bytes()
    for old, new in ((b"local/mine", b"local/evil"), (b'"version": 1', b'"version": 9')):
        path.write_bytes(good.replace(old, new))
        with pytest.raises(SignatureError):
            local.listed(state)
    flip(path, good.index(b'"sig": "') + 20)
    with pytest.raises(RefusedError):
        local.listed(state)
    for junk in (b"", b"{}", b"junk", good[:-20]):
        path.write_bytes(junk)
        with pytest.raises(MalformedError):
            local.listed(state)


def test_a_path_of_the_organisation_s_is_refused_even_when_the_site_signed_it(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(local, "_check_path", lambda _: None)
        local.approve(state, target("models/acme/small/1/Q4_0"), ISSUED)
    with pytest.raises(ScopeError):
        local.listed(state)


def test_a_target_without_its_hash_alone_is_malformed(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        made = TargetFile(1, {"sha256": "ab" * 32, "md5": "x"}, PATH)
        patched.setattr(local, "TargetFile", lambda *_: made)
        local.approve(state, target(), ISSUED)
    with pytest.raises(MalformedError, match="sha256 alone"):
        local.listed(state)
