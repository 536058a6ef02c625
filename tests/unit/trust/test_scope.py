"""What a release may want: known families, by their form, as manifests."""

import pytest

from appliance.errors import ScopeError
from appliance.trust.scope import MANIFEST_TYPE, check_wanted

GOOD = {
    "models/acme/small/1.0.0/Q4_0": "models",
    "models/acme/small/1.0.0-rc1/Q4_K_M": "models",
    "images/vllm/0.11.0": "images",
    "files/k3s/k3s/1.33.1": "files",
    "files/deb/nvidia-toolkit/1.17": "files",
    "files/wheel/appliance/0.3.0": "files",
    "files/controller/appliance/0.3.0": "files",
    "files/profile/vllm/1": "files",
    "files/site/defaults/1": "files",
    "boms/demo/1.0.0/mlbom": "boms",
    "boms/demo/1.0.0/sbom": "boms",
}
BAD = [
    "",
    "/",
    "models",
    "models/acme/small",
    "models/acme/small/1.0.0",
    "models/acme/small/1.0.0/Q4_0/x",
    "models/acme/small/1.0.0/",
    "models/acme/small/1.0.0/Q4_0\n",
    "models/acme/../1.0.0/Q4_0",
    "models/acme/.small/1.0.0/Q4_0",
    "models/acme/sm all/1.0.0/Q4_0",
    "models/local/small/1.0.0/Q4_0",
    "/models/acme/small/1.0.0/Q4_0",
    "local/small/1.0.0/Q4_0",
    "images/vllm",
    "images/vllm/1/2",
    "files/script/x/1",
    "files/k3s/x",
    "boms/demo/1.0.0",
    "boms/demo/1.0.0/other",
    "releases/demo/1.0.0.json",
    "trust/director.json",
    "trust/other.json",
    "profiles/vllm/1",
]


@pytest.mark.parametrize("path", GOOD)
def test_each_family_has_its_form(path: str) -> None:
    assert check_wanted(path, "targets", MANIFEST_TYPE) == GOOD[path]
    for media_type in (None, "", "application/json", "application/octet-stream"):
        with pytest.raises(ScopeError, match="is signed as"):
            check_wanted(path, "targets", media_type)


@pytest.mark.parametrize("path", BAD)
def test_what_is_of_no_family_is_not_imported(path: str) -> None:
    with pytest.raises(ScopeError, match="not something to import"):
        check_wanted(path, "targets", MANIFEST_TYPE)


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("role", ["publisher-other", "publisher-", "vendor", "snapshot", ""])
def test_a_role_signs_for_nobody_else(path: str, role: str) -> None:
    with pytest.raises(ScopeError, match="not its to sign"):
        check_wanted(path, role, MANIFEST_TYPE)


def test_a_publisher_signs_its_models() -> None:
    for path, family in GOOD.items():
        if family == "models":
            assert check_wanted(path, "publisher-acme", MANIFEST_TYPE) == "models"
        else:
            with pytest.raises(ScopeError):
                check_wanted(path, "publisher-acme", MANIFEST_TYPE)
