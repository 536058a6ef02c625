"""What is in an image, as CycloneDX: Debian packages by dpkg's list, Python's by dist-info."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib.metadata import Distribution, distributions
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL


@dataclass(frozen=True, order=True)
class Package:
    """One Debian package."""

    name: str
    version: str
    architecture: str


def write(path: Path, *, name: str, root: Path | None, site: Path) -> int:
    """Write the SBOM; return how many components it lists.

    ``root`` is the Debian root as a tar archive: none with a base that is not ours, whose own SBOM
    is to be asked for.
    """
    components = [*(_debian(p) for p in debian_packages(root) if root), *_python(site)]
    bom = Bom(components=components)
    image = Component(type=ComponentType.CONTAINER, name=name, bom_ref=name)
    bom.metadata.component = image
    bom.register_dependency(image, components)
    # Neither the hour nor chance: the same content gives the same file.
    bom.serial_number = uuid5(NAMESPACE_URL, "\n".join(sorted(str(c.purl) for c in components)))
    outputter = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    path.write_text(outputter.output_as_string(indent=2) + "\n")
    return len(components)


def debian_packages(root: Path | None) -> list[Package]:
    """Return what dpkg's list in the root says is installed, in order."""
    if root is None:
        return []
    with tarfile.open(root) as tar:
        status = tar.extractfile("./var/lib/dpkg/status")
        assert status is not None
        text = status.read().decode()
    return sorted(_parsed(text))


def _parsed(status: str) -> Iterator[Package]:
    for paragraph in status.strip().split("\n\n"):
        fields = HeaderParser().parsestr(paragraph)
        if fields["Status"] == "install ok installed":
            yield Package(fields["Package"], fields["Version"], fields["Architecture"])


def _debian(package: Package) -> Component:
    qualifiers = {"arch": package.architecture, "distro": "debian-12"}
    purl = PackageURL("deb", "debian", package.name, package.version, qualifiers)
    return _component(package.name, package.version, purl)


def _python(site: Path) -> Iterator[Component]:
    found: list[Distribution] = sorted(distributions(path=[str(site)]), key=lambda d: d.name)
    for distribution in found:
        purl = PackageURL("pypi", None, distribution.name.lower(), distribution.version)
        yield _component(distribution.name, distribution.version, purl)


def _component(name: str, version: str, purl: PackageURL) -> Component:
    return Component(
        type=ComponentType.LIBRARY, name=name, version=version, purl=purl, bom_ref=str(purl)
    )
