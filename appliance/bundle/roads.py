"""From what a person names to the medium it means: a folder, a web server, a registry."""

from pathlib import Path

from appliance.bundle.http_medium import HttpMedium
from appliance.bundle.medium import FolderMedium, Medium
from appliance.bundle.registry import SCHEMES, Reference, login_for
from appliance.bundle.registry_medium import RegistryMedium
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


def medium_at(
    source: str, network: NetworkSettings, pace: Pace, link: Link | None = None
) -> Medium:
    """Return the medium that ``source`` names, after a first look whether anything is there.

    Args:
        source: An absolute path, ``https://...``, ``http://...``, ``oci://...``.
        network: Accounts, certificates and patience.
        pace: What transfers keep to; a folder knows none.
        link: Instead of the settings' own.

    Raises:
        UsageError: it is none of these; an address is never shown, it may hold a password.
        NotFoundError: there is no bundle.
        PeerUnreachableError: nobody answers there.
        BadDocumentError, StateUnusableError: accounts or certificates cannot be read.
    """
    if not is_remote(source):
        return FolderMedium(Path(source))
    link = link or link_of(network)
    scheme = source.partition("://")[0].lower()
    if scheme in SCHEMES:
        reference = Reference.parse(source)
        login = login_for(reference.registry, auth_file(network))
        in_registry = RegistryMedium(reference, link, pace, login)
        in_registry.reach()
        return in_registry
    if scheme not in ("http", "https"):
        raise UsageError(
            "that is not a place that bundles come from",
            hint="a folder, https://HOST/PATH or oci://HOST/REPOSITORY:TAG",
        )
    url = Url.parse(source)
    on_server = HttpMedium(url, link, pace, login_for(url, auth_file(network)))
    on_server.reach()
    return on_server
