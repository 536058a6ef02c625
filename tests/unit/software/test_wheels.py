import pytest

from appliance.core.ids import Digest
from appliance.errors import MalformedError
from appliance.software.wheels import Wheel, requirements

OURS = "edge_ai_appliance-1.2.0-py3-none-any.whl"


def wheels(*files: str) -> list[Wheel]:
    return [Wheel(f, Digest(f"sha256:{n:064x}")) for n, f in enumerate(files)]


def test_each_project_is_asked_for_by_version_and_the_hashes_of_all_its_files() -> None:
    arm, intel = (f"PyYAML-6.0.3-cp311-cp311-manylinux_2_28_{m}.whl" for m in ("aarch64", "x86_64"))
    assert requirements(wheels(OURS, arm, intel), "1.2.0").splitlines() == [
        f"edge-ai-appliance==1.2.0 --hash=sha256:{0:064x}",
        f"pyyaml==6.0.3 --hash=sha256:{1:064x} --hash=sha256:{2:064x}",
    ]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([OURS, "notes.txt"], "is not the name of a wheel"),
        ([OURS, "../x-1-py3-none-any.whl"], "is not the name of a wheel"),
        ([OURS, "x --index-url-1-py3-none-any.whl"], "is not the name of a wheel"),
        ([OURS, "h11-1-py3-none-any.whl", "H11-2-py3-none-any.whl"], "h11 comes .* two versions"),
        (["h11-1-py3-none-any.whl"], "not at all"),
        ([OURS.replace("1.2.0", "1.1.0")], r"edge-ai-appliance 1\.1\.0"),
    ],
)
def test_what_is_no_controller_of_that_version_is_malformed(files: list[str], says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        requirements(wheels(*files), "1.2.0")
