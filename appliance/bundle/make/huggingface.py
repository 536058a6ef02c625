"""Files from a model hub that speaks Hugging Face's protocol; their own library does the talking.

``HF_ENDPOINT``, ``HF_TOKEN`` and the proxies that are configured apply as they do for everybody.
"""

import os
import re
from pathlib import Path
from typing import Any

from appliance.bundle.make.fetched import Fetched, look
from appliance.core.definitions import HuggingfaceSource
from appliance.errors import ApplianceError, NotFoundError, PeerUnreachableError, UsageError
from appliance.kit.files import translated

_ENDPOINT = "HF_ENDPOINT"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(source: HuggingfaceSource, folder: Path, commit: str | None = None) -> Fetched:
    """Download one file of a repository into ``folder``.

    Args:
        source: Repository, revision and file.
        folder: Where it goes.
        commit: The commit that was locked; without, the one that the revision names now.

    Raises:
        UsageError: the library is not installed.
        NotFoundError, PeerUnreachableError: as their names say.
    """
    hub = _library()
    revision = commit or source.revision
    try:
        with translated(f"downloading {source.file}"):
            if not _COMMIT.fullmatch(revision):
                revision = _commit(hub, source)
            path = hub.hf_hub_download(
                source.repo,
                source.file,
                revision=revision,
                local_dir=folder / "huggingface",
                endpoint=os.environ.get(_ENDPOINT),
            )
    except _not_found(hub) as error:
        raise _absent(source, revision) from error
    except ApplianceError:
        raise
    except Exception as error:  # its HTTP library's own errors too, whichever that is
        raise PeerUnreachableError(
            f"{source.repo}: {source.file} could not be downloaded: {str(error)[:200]}",
            hint="check the network and HF_ENDPOINT, then try again",
        ) from error
    return look(Path(path), Path(source.file).name, revision=revision)


def _commit(hub: Any, source: HuggingfaceSource) -> str:
    endpoint = os.environ.get(_ENDPOINT)
    url = hub.hf_hub_url(source.repo, source.file, revision=source.revision, endpoint=endpoint)
    found = hub.get_hf_file_metadata(url).commit_hash
    if not isinstance(found, str) or not _COMMIT.fullmatch(found):
        raise PeerUnreachableError(f"{url}: the hub does not say of which commit that file is")
    return found


def _not_found(hub: Any) -> tuple[type[Exception], ...]:
    names = ("RemoteEntryNotFoundError", "RepositoryNotFoundError", "RevisionNotFoundError")
    return tuple(getattr(hub.errors, name) for name in names)


def _absent(source: HuggingfaceSource, revision: str) -> NotFoundError:
    return NotFoundError(
        f"{source.repo} at {revision} has no {source.file}, or does not show it",
        hint="check the names in the definition; of a gated repository, HF_TOKEN must be set",
    )


def _library() -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub  # noqa: PLC0415 - an extra, and slow
        import huggingface_hub.errors  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            "sources on Hugging Face need the library huggingface_hub",
            hint="pip install 'edge-ai-appliance[huggingface]'",
        ) from error
    return huggingface_hub
