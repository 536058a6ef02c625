"""Build the container images of ``images/`` as OCI layouts, with no registry and no container run.

What an image holds is prepared here (a Debian root by mmdebstrap, Python packages from hashed
locks, our own wheel); its Containerfile only puts that in place, so buildah needs no right to run
containers. For each image ``build/images/`` gets a layout (``NAME/``), the same as an archive that
``ctr images import`` and k3s's images folder take (``NAME.tar``), and an SBOM (``NAME.cdx.json``).
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance import __version__
from scripts import image_sbom

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "images"
PYTHON = "3.11"
"""The base's Python: wheels and byte code are for this one."""
EPOCH = 1795219200
"""Every file and image is of this second (2026-11-21): the same input gives the same bytes."""
_FOR_INSTALLING = ("diffutils", "findutils", "grep", "perl-base", "sed")
_LEAVE_OUT = ("pip", "pip-*.dist-info", "bin", "**/__pycache__", "**/tests")
"""No image installs anything: pip comes along as a dependency of a tool's `install` command."""


@dataclass(frozen=True)
class Image:
    """``files``: what goes into the image's site folder besides the locked packages."""

    name: str
    title: str
    files: tuple[str, ...] = ()
    wheel: bool = False


IMAGES = {
    "appliance": Image("appliance", "edge-appliance", wheel=True),
    "engine-llama-cpp": Image(
        "engine-llama-cpp",
        "edge-engine-llama-cpp",
        files=(
            "appliance/__init__.py",
            "appliance/runtime/__init__.py",
            "appliance/runtime/workers/__init__.py",
            "appliance/runtime/workers/drain.py",
            "appliance/runtime/workers/llama_cpp.py",
        ),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the images named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(IMAGES))
    parser.add_argument("--base", default="", help="a base image to take instead of our own")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--relock", action="store_true", help="write images/base/packages.lock")
    options = parser.parse_args(arguments)
    for tool in ("buildah", "mmdebstrap"):
        if shutil.which(tool) is None:
            print(f"error: there is no {tool}\n  try: apt-get install {tool}", file=sys.stderr)
            return 2
    builder = Builder(options.out.resolve(), options.base)
    if not options.base:
        builder.base_image(relock=options.relock)
    for name in options.names or IMAGES:
        print(json.dumps(builder.build(IMAGES[name]), indent=2))
    return 0


class Builder:
    """One run: a work folder with buildah's storage, and what comes out of it."""

    def __init__(self, out: Path, base: str) -> None:
        self._out = out
        self._work = out / "work"
        self._work.mkdir(parents=True, exist_ok=True)
        self._base = base or f"localhost/edge-base:{__version__}"
        self._root = None if base else self._work / f"root-{base_key()}.tar"

    def base_image(self, *, relock: bool = False) -> None:
        """Make the Debian root, unless one of the same input is there, and the image of it."""
        root = self._root
        assert root is not None, "the base is somebody else's"
        if not root.exists():
            make_root(root)
        check_lock(root, relock=relock)
        context = self._context("base")
        os.link(root, context / "root.tar")
        self._buildah_build("base", context, self._base)

    def build(self, image: Image) -> dict[str, str | int]:
        """Build one image; return its name, digest and sizes."""
        context = self._context(image.name)
        site = context / "site"
        install(ROOT / "requirements" / f"image-{image.name}.lock", site)
        for name in image.files:
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, site / name)
        if image.wheel:
            install_ourselves(site)
        for pattern in _LEAVE_OUT:
            for found in list(site.glob(pattern)):
                shutil.rmtree(found)
        compile_all(site)
        reference = f"localhost/{image.title}:{__version__}"
        self._buildah_build(image.name, context, reference)
        layout = self._export(image, reference)
        bom = image_sbom.write(
            self._out / f"{image.name}.cdx.json", name=image.title, root=self._root, site=site
        )
        return {**layout, "components": bom}

    def _context(self, name: str) -> Path:
        context = self._work / name
        shutil.rmtree(context, ignore_errors=True)
        shutil.copytree(ROOT / "images" / name, context)
        return context

    def _buildah(self, *arguments: str) -> None:
        storage = ("--storage-driver", "vfs", "--root", str(self._work / "storage"))
        run("buildah", *storage, "--runroot", str(self._work / "run"), *arguments)

    def _buildah_build(self, name: str, context: Path, reference: str) -> None:
        given = [] if name == "base" else ["--build-arg", f"BASE={self._base}"]
        if self._root:
            given.append("--pull=never")
        self._buildah(
            "build", "--quiet", "--isolation", "chroot", "--layers=false",
            "--timestamp", str(EPOCH), *given, "--tag", reference, str(context),
        )  # fmt: skip

    def _export(self, image: Image, reference: str) -> dict[str, str | int]:
        layout = self._out / image.name
        shutil.rmtree(layout, ignore_errors=True)
        self._buildah("push", "--quiet", reference, f"oci:{layout}:{reference}")
        digest = name_it(layout, reference)
        archive = self._out / f"{image.name}.tar"
        pack(layout, archive)
        blobs = sum(p.stat().st_size for p in (layout / "blobs").rglob("*") if p.is_file())
        repository = reference.rpartition(":")[0]
        return {
            "image": reference,
            "pinned": f"{repository}@{digest}",
            "archive": str(archive),
            "compressed_bytes": blobs,
        }


def base_key() -> str:
    """Hash what our base is made from."""
    digest = hashlib.sha256()
    for name in ("packages", "packages.lock", "customize"):
        digest.update((ROOT / "images" / "base" / name).read_bytes())
    return digest.hexdigest()[:12]


def make_root(root: Path) -> None:
    """Make the Debian root as a tar archive; ``MIRROR`` in the environment names another mirror."""
    wanted = [*listed(ROOT / "images" / "base" / "packages"), *_FOR_INSTALLING]
    excluded = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")
    options = [f"--dpkgopt=path-exclude={path}" for path in excluded]
    part = root.with_suffix(".part.tar")
    run(
        "mmdebstrap", "--quiet", "--variant=custom", f"--include={','.join(wanted)}",
        *options, "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        f"--customize-hook={ROOT / 'images' / 'base' / 'customize'}",
        "bookworm", str(part), *filter(None, [os.environ.get("MIRROR")]),
    )  # fmt: skip
    part.rename(root)


def check_lock(root: Path, *, relock: bool) -> None:
    """Compare the root's packages with the lock, or write the lock.

    Raises:
        SystemExit: a package has another version than the lock says.
    """
    lock = ROOT / "images" / "base" / "packages.lock"
    found = [f"{p.name} {p.version}" for p in image_sbom.debian_packages(root)]
    if relock:
        head = "# The Debian packages of the base image. Written by scripts/images.py --relock."
        lock.write_text("\n".join([head, *found, ""]))
    elif differing := sorted(set(found) ^ set(listed(lock))):
        root.unlink()
        sys.exit(
            "error: the mirror's packages are not those of images/base/packages.lock:\n  "
            + "\n  ".join(differing)
            + "\n  try: make images RELOCK=1 and look at the difference, or MIRROR=... with the old"
        )


def install(lock: Path, site: Path) -> None:
    """Install the locked wheels for the base's Python, whichever Python runs this."""
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(36, 16, -1)]
    tags += [f"manylinux2014_{machine}", f"linux_{machine}"]
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps",
        "--only-binary=:all:", "--no-compile", "--implementation=cp", "--abi=cp311",
        "--abi=abi3", "--abi=none", f"--python-version={PYTHON}",
        *(f"--platform={tag}" for tag in tags),
        f"--target={site}", f"--requirement={lock}",
    )  # fmt: skip


def install_ourselves(site: Path) -> None:
    """Install our own wheel; what it needs came from the lock."""
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
        "--no-compile", f"--target={site}", str(ROOT),
    )  # fmt: skip


def compile_all(site: Path) -> None:
    """Write byte code: the image's root is read-only, so nothing else ever would."""
    python = shutil.which(f"python{PYTHON}")
    if python is None:
        print(f"note: no python{PYTHON} here, so the image starts slower: it has no byte code")
        return
    # One worker and no time stamps: the same bytes every time.
    run(
        python, "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash",
        "-s", str(site), "-p", "/opt/site", str(site),
    )  # fmt: skip


def name_it(layout: Path, reference: str) -> str:
    """Name the image by tags and by digest, as containerd's import understands it."""
    index = layout / "index.json"
    found = json.loads(index.read_text())
    (manifest,) = found["manifests"]
    repository = reference.rpartition(":")[0]
    found["manifests"] = [
        {
            **manifest,
            "annotations": {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name,
            },
        }
        for name in (reference, f"{repository}:latest", f"{repository}@{manifest['digest']}")
    ]
    index.write_text(json.dumps(found))
    digest: str = manifest["digest"]
    return digest


def pack(layout: Path, archive: Path) -> None:
    """Write a layout as an archive, the same bytes for the same layout."""
    with tarfile.open(archive, "w") as tar:
        for path in sorted(p for p in layout.rglob("*") if p.is_file()):
            entry = tarfile.TarInfo(str(path.relative_to(layout)))
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as data:
                tar.addfile(entry, data)


def listed(path: Path) -> list[str]:
    """Return a file's lines without comments."""
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def run(*command: str) -> None:
    """Run a command, in the one second of all images."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
