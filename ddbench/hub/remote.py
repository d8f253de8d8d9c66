"""A folder of the form ``hub`` goes to a hub and comes back, by huggingface_hub. Imports no torch.

The token is the library's own (``hf auth login``, or ``HF_TOKEN``); it goes nowhere but into its requests, and what an
error says is cleared of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ddbench.hub import DATA, FILES, INFO, LABELS
from ddbench.runtime.errors import UserError, install_words

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
LONGEST = 300
"""Letters of a library's error that are told."""


def check_name(name: str) -> None:
    """Refuse what is no ``OWNER/NAME``, before anything is sent.

    Raises:
        UserError: another form.
    """
    if NAME.fullmatch(name) is None:
        raise UserError(f"{name!r:.120}: expected OWNER/NAME, the name of a dataset on the hub")


def library() -> Any:
    """The module ``huggingface_hub``.

    Raises:
        UserError: it is not installed.
    """
    try:
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError:
        raise UserError(f"push and pull need huggingface_hub: {install_words('hub')}") from None
    return huggingface_hub


def push(folder: Path, name: str, *, private: bool, quiet: bool) -> str:
    """Upload a folder as the dataset ``OWNER/NAME``, which is made if it is not there; returns its address.

    Args:
        private: whether a dataset that is made is private.

    Raises:
        UserError: no such owner, no token or one that may not write, a dataset there that is no synset, no connection.
    """
    check_name(name)
    hub = library()
    with _told(hub, name, quiet):
        api = hub.HfApi(library_name="ddbench")
        api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        there = set(api.list_repo_files(name, repo_type="dataset")) - {".gitattributes"}
        if there and INFO not in there:
            raise UserError(f"{name}: a dataset that is no synset of ddbench is there already; choose another name")
        api.upload_folder(
            repo_id=name,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=list(FILES),
            delete_patterns=[f"{DATA}/train-*.parquet", f"{LABELS}/train-*.parquet"],
            commit_message="Synset, written by ddbench",
        )
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
    hub = library()
    wanted = [pattern for pattern in FILES if labels or not pattern.startswith(f"{LABELS}/")]
    with _told(hub, name, quiet):
        api = hub.HfApi(library_name="ddbench")
        folder = Path(api.snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=wanted))
    if not (folder / INFO).is_file():
        raise UserError(f"{name}: no synset of ddbench (it has no {INFO})")
    return folder


@contextmanager
def _told(hub: Any, name: str, quiet: bool) -> Iterator[None]:
    """What goes wrong on the way, as one line."""
    if quiet:
        hub.utils.disable_progress_bars()
    errors = hub.errors
    try:
        yield
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise UserError(
            f"{name}: no such dataset or revision, or none that your token may read (hf auth login)"
        ) from None
    except (errors.HfHubHTTPError, errors.LocalTokenNotFoundError) as error:
        code = getattr(getattr(error, "response", None), "status_code", None)
        if code in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError):
            raise UserError(f"{name}: a token that may write there is needed: hf auth login, or set HF_TOKEN") from None
        raise UserError(f"{name}: the hub refused: {_clear(hub, error)}") from None
    except UserError:
        raise
    except Exception as error:  # the library's HTTP client changes with its versions, and its errors with it
        raise UserError(f"{name}: no way to the hub: {_clear(hub, error)}") from None


def _clear(hub: Any, error: Exception) -> str:
    """The text of an error without a token in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    token = None
    with suppress(Exception):  # asking for one may be what went wrong
        token = hub.get_token()
    if token:
        text = text.replace(token, "***")
    return re.sub(r"hf_\w+|(?i:bearer)\s+[^\s'\"]+", "***", text)[:LONGEST]
