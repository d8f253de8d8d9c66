"""The libraries behind hubs of datasets: huggingface_hub, whose errors are told in one line, and pyarrow."""

from __future__ import annotations

import errno
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ddbench.runtime.errors import UserError, install_words
from ddbench.runtime.files import refused

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
LONGEST = 300
"""Letters of a library's error that are told."""
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of the disk, on which the library keeps what it downloads."""


def check_name(name: str) -> None:
    """Refuse what is no ``OWNER/NAME``, before anything is sent.

    Raises:
        UserError: another form.
    """
    if NAME.fullmatch(name) is None:
        raise UserError(f"{name!r:.120}: expected OWNER/NAME, the name of a dataset on the hub")


def library(need: str) -> Any:
    """The module ``huggingface_hub``.

    Args:
        need: who needs it, for the error: ``push needs``.

    Raises:
        UserError: it is not installed.
    """
    try:
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError:
        raise UserError(f"{need} huggingface_hub: {install_words('hub')}") from None
    return huggingface_hub


def parquet(need: str = "the form hub needs") -> tuple[Any, Any]:
    """The modules ``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{need} pyarrow: {install_words('parquet')}") from None
    return pyarrow, pyarrow.parquet


def anew(path: Path) -> str:
    """What is to be done about a file that is damaged: one in the library's cache is not downloaded again."""
    return f"remove {path.resolve()} and get it again" if path.is_symlink() else "copy or get it again"


@contextmanager
def whole_file(path: Path) -> Iterator[None]:
    """What arrow raises of a damaged file, of many kinds, in one line.

    Raises:
        UserError: it raised.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: not a whole parquet file ({error!s:.100}); {anew(path)}") from None


@contextmanager
def told(hub: Any, name: str, quiet: bool, *, writes: bool = False) -> Iterator[None]:
    """What goes wrong on the way, as one line.

    Args:
        writes: whether the token is to write there.
    """
    if quiet:
        hub.utils.disable_progress_bars()
        hub.utils.logging.set_verbosity_error()  # each try that is repeated is a warning
    errors = hub.errors
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Not enough free disk space")  # the error that follows says it
            yield
    except UserError:
        raise
    except Exception as error:  # the library's HTTP client changes with its versions, and its errors with it
        if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # why the hub could not be asked; that nothing is here already follows from it
        if isinstance(error, (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)):
            reason = "no such dataset or revision, or none that your token may read (hf auth login)"
        elif isinstance(error, errors.LocalTokenNotFoundError):
            reason = _token_words(writes)
        elif isinstance(error, errors.HfHubHTTPError):
            reason = _answer_words(hub, error, writes)
        elif (disk := _of_disk(error)) is not None:
            raise refused(disk, Path(disk.filename or hub.constants.HF_HUB_CACHE)) from None
        elif isinstance(error, json.JSONDecodeError):
            reason = "what answers is no hub (not JSON: a page to log in to the network?); see HF_ENDPOINT, and repeat"
        else:
            kept = "" if writes else "; what is in the cache is taken with HF_HUB_OFFLINE=1"
            reason = f"no way to the hub: {clear(hub, error)}{kept}"
        raise UserError(f"{name}: {reason}") from None


def _of_disk(error: Exception) -> OSError | None:
    """What the disk refused; None: it was something else. One part of the library tells it in words only."""
    if isinstance(error, OSError):
        return error if error.errno in DISK else None
    return OSError(errno.ENOSPC, str(error)) if "No space left on device" in str(error) else None


def _token_words(writes: bool) -> str:
    return f"a token that may {'write' if writes else 'read'} there is needed: hf auth login, or set HF_TOKEN"


def _answer_words(hub: Any, error: Exception, writes: bool) -> str:
    """What a user is told of an answer that is an error."""
    code = getattr(getattr(error, "response", None), "status_code", 0)
    if code in (401, 403):
        return _token_words(writes)
    if code == 429:
        return "the hub takes no more requests for now (429); wait some minutes and repeat the command"
    if code >= 500:
        return f"the hub is in trouble ({code}); repeat the command later"
    return f"the hub refused: {clear(hub, error)}"


def clear(hub: Any, error: Exception) -> str:
    """The text of an error without a token in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r" For more information check: \S+", "", text)  # what the number of an answer means
    token = None
    with suppress(Exception):  # asking for one may be what went wrong
        token = hub.get_token()
    if token:
        text = text.replace(token, "***")
    return re.sub(r"hf_\w+|(?i:bearer)\s+[^\s'\"]+", "***", text)[:LONGEST]
