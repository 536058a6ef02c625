import dataclasses
import sys
from pathlib import Path

import pytest

from appliance.core.model import Replica
from appliance.errors import EngineError
from appliance.runtime import profile
from appliance.runtime.profile import EngineProfile, Launcher
from tests.helpers.models import variant

REPLICA = Replica("small-0", "small", variant(), "llama-cpp", 2048, 2, 1 << 29)
DATA = {
    "name": "test",
    "formats": ["gguf"],
    "launchers": [
        {"name": "by setting", "setting": "llama_server"},
        {"name": "by package", "module": "appliance.none", "requires": "no_such_package"},
        {"name": "on PATH", "binary": "test-engine"},
    ],
    "arguments": [["--model", "{weights}"], ["--size", "{context}/{slots}"], ["--flag"]],
    "capabilities": {"embeddings": ["--embeddings"]},
    "ready": {"path": "/health", "status": 200, "start_s": 5},
}


def program(folder: Path, name: str) -> str:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_the_installed_profile_fills_a_command_line_for_one_replica() -> None:
    llama = profile.profiles()["llama-cpp"]
    found = llama.command_arguments(REPLICA, "/w", "e.sock", threads=3)
    pairs = dict(zip(found[::2], found[1::2], strict=False))
    assert (pairs["--model"], pairs["--host"], pairs["--alias"]) == ("/w", "e.sock", "small")
    assert (pairs["--ctx-size"], pairs["--parallel"], pairs["--threads"]) == ("4096", "2", "3")
    assert "--metrics" in found
    assert "--embeddings" not in found
    assert not any("{" in part for part in found)


def test_our_own_image_takes_all_that_a_container_is_given() -> None:
    """It holds this worker, and a GPU is asked for whether or not the image can use it."""
    worker = pytest.importorskip("appliance.runtime.workers.llama_cpp")
    able = dataclasses.replace(REPLICA.variant, capabilities=("embeddings",))
    for replica in (REPLICA, dataclasses.replace(REPLICA, variant=able, gpus=1)):
        found = profile.profiles()["llama-cpp"].network_arguments(replica, "/w", "0.0.0.0", 1)
        assert callable(worker.prepare(found))


def test_a_capability_adds_its_arguments() -> None:
    able = dataclasses.replace(REPLICA.variant, capabilities=("embeddings", "unheard-of"))
    llama = profile.profiles()["llama-cpp"]
    found = llama.command_arguments(dataclasses.replace(REPLICA, variant=able), "/w", "s", 1)
    assert found[-3:] == ["--embeddings", "--pooling", "mean"]


def test_a_value_with_braces_is_not_filled_in_again() -> None:
    found = profile.parse(DATA).command_arguments(REPLICA, "/{slots}/{", "s", 1)
    assert found == ["--model", "/{slots}/{", "--size", "4096/2", "--flag"]


def test_the_first_launcher_that_is_there_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = profile.parse(DATA)
    mine, on_path = program(tmp_path, "mine"), program(tmp_path, "test-engine")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found.launcher({"llama_server": mine}) == (
        Launcher("by setting", setting="llama_server"),
        [mine],
    )
    for settings in ({}, {"llama_server": ""}):
        assert found.launcher(settings)[1] == [on_path]


def test_a_package_that_is_there_runs_as_a_module() -> None:
    launcher = Launcher("it", module="appliance.runtime.health")
    assert launcher.program({}) == [sys.executable, "-m", "appliance.runtime.health"]


def test_an_engine_that_is_not_installed_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="looked for by setting, by package, on PATH") as caught:
        profile.parse(DATA).launcher({})
    assert "edge-ai-appliance[engine]" in str(caught.value.hint)


def test_an_engine_that_the_settings_name_is_not_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "test-engine")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="the settings name /none"):
        profile.parse(DATA).launcher({"llama_server": "/none"})


@pytest.mark.parametrize("field", ["name", "formats", "launchers", "arguments", "ready"])
def test_a_profile_with_a_field_too_few_is_not_taken(field: str) -> None:
    with pytest.raises((KeyError, TypeError)):
        profile.parse({key: value for key, value in DATA.items() if key != field})


def test_a_launcher_with_a_field_too_many_is_not_taken() -> None:
    with pytest.raises(TypeError):
        profile.parse({**DATA, "launchers": [{"name": "x", "shell": "rm"}]})


def test_every_installed_profile_is_named_as_its_file() -> None:
    assert all(isinstance(found, EngineProfile) for found in profile.profiles().values())
    assert all(name == found.name for name, found in profile.profiles().items())


def test_in_a_cluster_it_listens_on_tcp_with_the_same_arguments() -> None:
    llama = profile.profiles()["llama-cpp"]
    process = llama.command_arguments(REPLICA, "/w", "e.sock", threads=3)
    network = llama.network_arguments(REPLICA, "/w", "0.0.0.0", threads=3)
    rest = [part for part in process if part not in ("--host", "e.sock")]
    assert network == [*rest, "--host", "0.0.0.0", "--port", "8080"]


def test_a_capability_adds_its_arguments_in_a_cluster_too() -> None:
    able = dataclasses.replace(REPLICA.variant, capabilities=("embeddings",))
    llama = profile.profiles()["llama-cpp"]
    found = llama.network_arguments(dataclasses.replace(REPLICA, variant=able), "/w", "::", 1)
    assert found[-3:] == ["--embeddings", "--pooling", "mean"]


@pytest.mark.parametrize("accelerator", ["cuda", "rocm", "vulkan"])
def test_an_image_that_is_not_built_here_has_to_be_named_by_digest(accelerator: str) -> None:
    network = profile.profiles()["llama-cpp"].in_network()
    assert network.image("cpu").startswith("localhost/edge-engine-llama-cpp:")
    with pytest.raises(EngineError, match=f"no engine image for {accelerator}") as caught:
        network.image(accelerator)
    assert "@sha256:" in str(caught.value.hint)
    with pytest.raises(EngineError) as caught:
        network.image("abacus")
    assert caught.value.hint == "the images that there are: cpu"
