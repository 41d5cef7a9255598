"""PURE: takes secrets out of what libraries say: their messages quote addresses, headers and tokens."""

from __future__ import annotations

import re

SECRETS = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"//[^\s/@]*@", "//***@"),  # a user, or user and password, in an address
        (r"//[^\s/@:]*:[^\s@]*@", "//***@"),  # a password with a slash in it
        (r"\b(bearer|basic) +[\w.~+/=-]+", r"\1 ***"),
        (r"\b(authorization|cookie)(['\"]?\s*[:=]\s*['\"]?)[^\s'\"]+(?! \*)", r"\1\2***"),
        (r"\bhf_[a-z0-9_]{8,}", "hf_***"),
        (r"([?&][\w-]*(?:signature|token|credential|key|policy|sig)=)[^&\s'\"]+", r"\1***"),
    )
)


def without_secrets(text: str) -> str:
    """Return a text with ``***`` in place of passwords, tokens and signatures."""
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return text
