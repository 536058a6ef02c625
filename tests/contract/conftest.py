"""What contracts need of a cluster: the same fixtures as the tests in ``tests/k8s``."""

from tests.helpers.enginepods import engines
from tests.k8s.conftest import api, cluster, kubeconfig, namespace

__all__ = ["api", "cluster", "engines", "kubeconfig", "namespace"]
