"""Text of strangers made harmless for Markdown."""

from __future__ import annotations

import re

SPECIAL = re.compile(r"[&<>|\[\]{}`*_~\\$@#!^()]|:(?=\S)|(?<=www)\.", re.IGNORECASE)


def escape(text: object) -> str:
    """One line in which no character can form markup, a table cell, a link or a template: they become entities."""
    return SPECIAL.sub(lambda match: f"&#{ord(match[0])};", " ".join(str(text).split()))


def link(address: str) -> str:
    """An address that the schema has accepted, as a link that shows itself."""
    target = address.replace("&", "&amp;").replace("(", "%28").replace(")", "%29").replace("*", "%2A")
    return f"[{escape(address)}](<{target}>)"
