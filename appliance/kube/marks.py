"""The labels and annotations that tell our objects from others', and whom we write as."""

from appliance.kube.resources import GROUP

MANAGER = "edge-appliance"
"""Our field manager; those of single nodes and of words begin with it."""
MANAGED_BY = "app.kubernetes.io/managed-by"
OURS = f"{MANAGED_BY}={MANAGER}"
"""Selects what we made."""

ENGINE = "app.kubernetes.io/name"
DEPLOYMENT, REPLICA = f"{GROUP}/deployment", f"{GROUP}/replica"
REVISION, RENDERED = f"{GROUP}/revision", f"{GROUP}/rendered"
