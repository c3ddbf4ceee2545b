"""Mistakes of the person who runs a study. Each message is one line with the fix."""

from __future__ import annotations


class SearchError(Exception):
    """Base of this room's errors: shown as one line, exit code 2, nothing is changed."""


class UnknownStudy(SearchError):
    """No study of that name; the message lists what there is."""


class StudyFileError(SearchError):
    """The study's file has a mistake; the message says in which line and what fits."""


class BadVariable(SearchError):
    """A variable such as TRIALS has a value that is not allowed; the message says which are."""


class StudyChanged(SearchError):
    """The stored study was made with other settings: its values would not compare."""


class WorkersFailed(SearchError):
    """Workers end before they can train; the message names the cause and their log."""
