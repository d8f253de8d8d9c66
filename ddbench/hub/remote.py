"""A folder of the form ``hub`` goes to a hub and comes back, by huggingface_hub. Imports no torch.

The token is the library's own (``hf auth login``, or ``HF_TOKEN``); it goes nowhere but into its requests, and what an
error says is cleared of it.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from ddbench.hub import DATA, FILES, INFO, LABELS, PREVIEW
from ddbench.runtime.errors import UserError
from ddbench.runtime.hub_library import check_name, library, told
from ddbench.runtime.interruption import leaving

COMMIT = re.compile("[0-9a-f]{40}")


def push(folder: Path, name: str, *, private: bool, quiet: bool) -> str:
    """Upload a folder as the dataset ``OWNER/NAME``, which is made if it is not there; returns its address.

    Args:
        private: whether a dataset that is made is private.

    Raises:
        UserError: no such owner, no token or one that may not write, a dataset there that is no synset, no connection.
    """
    check_name(name)
    hub = library("push and pull need")
    with told(hub, name, quiet, writes=True):
        api = hub.HfApi(library_name="ddbench")
        api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        there = set(api.list_repo_files(name, repo_type="dataset")) - {".gitattributes"}
        if there and INFO not in there:
            raise UserError(f"{name}: a dataset that is no synset of ddbench is there already; choose another name")
        upload = partial(
            api.upload_folder,
            repo_id=name,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=list(FILES),
            delete_patterns=[PREVIEW, f"{DATA}/train-*.parquet", f"{LABELS}/train-*.parquet"],
            commit_message="Synset, written by ddbench",
        )
        leaving(upload)
        return f"{api.endpoint}/datasets/{name}"


def pull(name: str, *, revision: str | None, labels: bool, quiet: bool) -> Path:
    """Download the dataset ``OWNER/NAME`` into the library's cache; returns the folder. A killed pull goes on.

    Args:
        revision: branch, tag or commit; None: the newest.
        labels: stored labels of views too, which may be large.

    Raises:
        UserError: no such dataset, or none that one may read, no synset, no connection.
    """
    check_name(name)
    hub = library("push and pull need")
    wanted = [pattern for pattern in FILES if labels or not pattern.startswith(f"{LABELS}/")]
    with told(hub, name, quiet):
        api = hub.HfApi(library_name="ddbench")
        if not (hub.constants.HF_HUB_OFFLINE or COMMIT.fullmatch(revision or "")):
            # where the hub does not answer, the library takes the newest version that it has kept, without a word
            revision = api.dataset_info(name, revision=revision).sha
        download = partial(api.snapshot_download, name, repo_type="dataset", revision=revision, allow_patterns=wanted)
        folder = Path(leaving(download))
    if not (folder / INFO).is_file():
        raise UserError(f"{name}: no synset of ddbench (it has no {INFO})")
    return folder
