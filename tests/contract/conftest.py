from tests.k8s.conftest import api, cluster, kubeconfig, namespace  # noqa: F401
