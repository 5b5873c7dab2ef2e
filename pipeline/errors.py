"""The one exception that a user is meant to read."""


class MenteeError(Exception):
    """Something the user can mend; its text is one line: what is wrong and what to do."""
