"""The one exception that a user is meant to read."""

from collections.abc import Iterable
from difflib import get_close_matches


class MenteeError(Exception):
    """Something the user can mend; its text is one line: what is wrong and what to do."""

    def __init__(self, text: str):
        super().__init__(printable(text))


def printable(text: str) -> str:
    """Text that may quote a stranger's file, and must neither break a line nor move a cursor."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def reason(error: Exception) -> str:
    """What an exception of a library says, short enough to be quoted on a line."""
    return " ".join(str(error).split())[:200]


def near(name: str, known: Iterable[str]) -> str:
    """What may have been meant by a name that is not known: the end of a sentence, or nothing."""
    found = get_close_matches(name, list(known), n=5)
    return f"; near are {', '.join(found)}" if found else ""
