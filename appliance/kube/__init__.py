"""The appliance at home in Kubernetes.

``client.py`` is the only door to the ``kubernetes`` library, and a node without Kubernetes never
opens it. What is decided here is pure (rendering, projection, status); what touches the API server
goes through ``client.KubeApi``.
"""
