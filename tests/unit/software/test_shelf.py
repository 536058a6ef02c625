import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.core.ids import Digest
from appliance.errors import NotFoundError, PeerUnreachableError
from appliance.kit.files import locked
from appliance.software import switch as decide
from appliance.software.shelf import Shelf, Staged
from appliance.software.switch import Intent, Switch


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    made = Shelf(tmp_path)
    made.init()
    return made


def put(shelf: Shelf, *versions: str) -> None:
    for version in versions:
        shelf.place(version).mkdir()
        shelf.mark(Staged(version, f"files/controller/x/{version}", Digest("sha256:0")))


def run(shelf: Shelf, version: str) -> None:
    shelf.change(lambda s: decide.succeed(decide.ask(s, Intent(version, "me", "now"))))


def test_without_a_file_the_installed_release_runs(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    assert shelf.read() == Switch()
    assert shelf.versions() == []
    assert shelf.program(None)[1:] == ["-m", "appliance"]


def test_the_link_follows_what_is_in_force_and_is_mended(shelf: Shelf) -> None:
    put(shelf, "1.0.0", "2.0.0")
    run(shelf, "1.0.0")
    link = shelf.folder / "current"
    assert link.resolve() == shelf.place("1.0.0")
    link.unlink()
    link.symlink_to("2.0.0")  # a power cut between the link and the truth
    shelf.point()
    assert link.resolve() == shelf.place("1.0.0")
    shelf.change(lambda _: Switch())
    assert not link.is_symlink()


def test_what_was_not_finished_is_not_staged(shelf: Shelf) -> None:
    shelf.place("1.0.0").mkdir()
    assert shelf.staged("1.0.0") is None
    assert shelf.staged("../node") is None
    assert shelf.staged(None) is None
    put(shelf, "2.0.0")
    assert [s.version for s in shelf.versions()] == ["2.0.0"]


def test_what_nobody_needs_is_swept_and_what_runs_stays(shelf: Shelf) -> None:
    put(shelf, "1.0.0", "2.0.0", "3.0.0", "4.0.0")
    shelf.place("0.9.0").mkdir()  # never finished
    run(shelf, "2.0.0")
    run(shelf, "3.0.0")
    program = shelf.place("1.0.0") / "engine"
    shutil.copy("/bin/sleep", program)
    engine = subprocess.Popen([program, "60"])
    try:
        assert set(shelf.sweep()) == {"0.9.0", "4.0.0"}
        assert {s.version for s in shelf.versions()} == {"1.0.0", "2.0.0", "3.0.0"}
    finally:
        engine.kill()
        engine.wait()
    assert shelf.sweep() == ["1.0.0"]


def test_a_change_that_raises_leaves_what_was(shelf: Shelf) -> None:
    with pytest.raises(NotFoundError):
        shelf.change(decide.begin)
    assert shelf.read() == Switch()


def test_without_a_supervisor_nothing_may_be_asked_for(shelf: Shelf) -> None:
    with pytest.raises(NotFoundError, match="no supervisor"):
        shelf.require_supervisor()
    with locked(shelf.supervisor_lock, what="it"):
        shelf.require_supervisor()


def test_an_outcome_is_waited_for_but_not_for_ever(shelf: Shelf) -> None:
    with pytest.raises(PeerUnreachableError, match="did not end"):
        shelf.wait(0, at_most_s=0.01)
    run(shelf, "1.0.0")
    assert shelf.wait(0, at_most_s=0.01).wanted == "1.0.0"
