"""The one error that a user can cause, and text that is safe to print."""

import unicodedata


class UserError(Exception):
    """An input from the user cannot be used.

    The message names the value, where it came from and the remedy. Programs print it as one line
    and exit with code 1, without a traceback; see `universal_embedding.cli`.
    """


def printable(text: object) -> str:
    """Text for a terminal: one line, with control characters and lone surrogates escaped.

    File names may hold line breaks, escape sequences, or bytes that are not UTF-8.
    """
    return "".join(c if _is_printable(c) else ascii(c)[1:-1] for c in str(text))


def _is_printable(character: str) -> bool:
    # Cf holds the marks that reverse the direction of a line, but also those that join letters.
    is_bidi = character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return not is_bidi and unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
