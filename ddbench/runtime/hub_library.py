"""The libraries behind hubs of datasets: huggingface_hub, whose errors are told in one line, and pyarrow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

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


@contextmanager
def told(hub: Any, name: str, quiet: bool) -> Iterator[None]:
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
        raise UserError(f"{name}: the hub refused: {clear(hub, error)}") from None
    except UserError:
        raise
    except Exception as error:  # the library's HTTP client changes with its versions, and its errors with it
        raise UserError(f"{name}: no way to the hub: {clear(hub, error)}") from None


def clear(hub: Any, error: Exception) -> str:
    """The text of an error without a token in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    token = None
    with suppress(Exception):  # asking for one may be what went wrong
        token = hub.get_token()
    if token:
        text = text.replace(token, "***")
    return re.sub(r"hf_\w+|(?i:bearer)\s+[^\s'\"]+", "***", text)[:LONGEST]
