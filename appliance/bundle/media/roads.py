"""From the address that a person names to the medium it means: a web server or a registry."""

from pathlib import Path

from appliance.bundle.media.http_medium import HttpMedium
from appliance.bundle.media.registry import SCHEMES, Reference, login_for
from appliance.bundle.media.registry_medium import RegistryMedium
from appliance.errors import UsageError
from appliance.kit.throttle import Pace
from appliance.kit.weblink import Link, Url
from appliance.settings import NetworkSettings


def is_remote(source: str) -> bool:
    """Whether this is an address, and no path."""
    return "://" in source


def link_of(network: NetworkSettings) -> Link:
    """Return how to talk to servers of bundles, by the settings."""
    hosts = (host.strip().lower() for host in network.also_hosts.split(","))
    return Link(
        timeout_s=network.timeout_s,
        tries=network.tries,
        ca_file=Path(network.ca_file) if network.ca_file else None,
        also_hosts=frozenset(host for host in hosts if host),
    )


def auth_file(network: NetworkSettings) -> Path | None:
    """Return the file of accounts that the settings name."""
    return Path(network.auth_file) if network.auth_file else None


def remote_at(source: str, network: NetworkSettings, pace: Pace) -> HttpMedium | RegistryMedium:
    """Return the medium that an address names, after a first look whether anything is there.

    Args:
        source: ``https://...``, ``http://...`` or ``oci://...``.
        network: Accounts, certificates and patience.
        pace: What transfers keep to.

    Raises:
        UsageError: it is none of these; an address is never shown, it may hold a password.
        NotFoundError: there is no bundle.
        PeerUnreachableError: nobody answers there.
        BadDocumentError, StateUnusableError: accounts or certificates cannot be read.
    """
    link, accounts = link_of(network), auth_file(network)
    scheme = source.partition("://")[0].lower()
    if scheme not in ("http", "https", *SCHEMES):
        raise UsageError(
            "that is not a place that bundles come from",
            hint="a folder, https://HOST/PATH or oci://HOST/REPOSITORY:TAG",
        )
    medium: HttpMedium | RegistryMedium
    if scheme in SCHEMES:
        reference = Reference.parse(source)
        login = login_for(reference.registry, accounts)
        medium = RegistryMedium(reference, link, pace, login)
    else:
        url = Url.parse(source)
        medium = HttpMedium(url, link, pace, login_for(url, accounts))
    try:
        medium.reach()
    except BaseException:
        medium.close()
        raise
    return medium
