"""What API servers have, as tests need them."""

from appliance.kube.server import Abilities


def abilities(release: tuple[int, int] = (1, 37), *, claims: bool = True) -> Abilities:
    """Return a server of a release; ``claims``: with DRA, where the release has it."""
    return Abilities(
        version=f"v{release[0]}.{release[1]}.0",
        release=release,
        claims=claims and release >= (1, 34),
        crd_rules=release >= (1, 25),
        admission_policies=release >= (1, 30),
        pod_security=release >= (1, 23),
        strict_fields=release >= (1, 25),
        budgets_v1=release >= (1, 21),
        slices_v1=release >= (1, 21),
        events_v1=release >= (1, 19),
        autoscaling_v2=release >= (1, 23),
        sidecars=release >= (1, 29),
        grpc_probes=release >= (1, 24),
    )
