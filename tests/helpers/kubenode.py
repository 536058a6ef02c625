"""A node's controller as a process of its own, that looks after a cluster."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from appliance.kube.client import KubeApi
from appliance.kube.resources import MODEL_DEPLOYMENTS, NAMESPACES
from tests.helpers.organisation import Node, Organisation


def prepared(state: Path, organisation: Organisation, *bundles: Path) -> Path:
    """Make a node that has imported bundles, and close it."""
    node = Node.create(state, organisation.root)
    for bundle in bundles:
        node.importer.run(bundle, "a test")
    node.close()
    return state


class KubeNode:
    """``appliance node run`` on a copy of a prepared state, or on it; it may be killed."""

    def __init__(
        self, prepared: Path, state: Path, kubeconfig: Path, namespace: str, *, name: str,
        command: Sequence[str] = (), environment: Mapping[str, str] | None = None,
        python: str = sys.executable, **settings: str,
    ) -> None:  # fmt: skip
        """``name`` is what the cluster calls the machine; one that it lacks runs no pod.

        ``command`` is what starts it, ``python`` where it is installed, and ``environment`` what it
        has besides this run's.
        """
        self._command = [*command, python]
        if state != prepared:
            shutil.copytree(prepared, state, dirs_exist_ok=True)
        self.state = state
        self.log = state / "controller.log"
        self._env = {
            **os.environ,
            **(environment or {}),
            "APPLIANCE_KUBERNETES_KUBECONFIG": str(kubeconfig),
            "APPLIANCE_KUBERNETES_NAMESPACE": namespace,
            "APPLIANCE_KUBERNETES_SYSTEM_NAMESPACE": namespace,
            "APPLIANCE_KUBERNETES_NODE": name,
            **{f"APPLIANCE_{key}".upper(): value for key, value in settings.items()},
        }
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        with self._lock, self.log.open("ab") as log:
            self.starts += 1
            self._process = subprocess.Popen(
                [*self._command, "-m", "appliance", "node", "run",
                 "--state-dir", str(self.state)],
                env=self._env, stdout=log, stderr=log,
            )  # fmt: skip

    def said(self, *command: str) -> str:
        """Return what a command of its staff prints, be it an error."""
        done = subprocess.run(
            [sys.executable, "-m", "appliance", *command, "--state-dir", str(self.state)],
            check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.stdout

    def kill(self) -> None:
        """End it without a word, and wait until it is gone."""
        with self._lock:
            if self._process is not None:
                self._process.send_signal(signal.SIGKILL)
                self._process.wait()

    def stop(self) -> None:
        """End it in peace."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(20)


def own_namespace(api: KubeApi, name: str) -> None:
    """Make the namespace that engines are to run in, and wait for the kind of what is applied."""
    api.create(NAMESPACES.path(), {"metadata": {"name": name}})
    api.list(MODEL_DEPLOYMENTS.path(name))
