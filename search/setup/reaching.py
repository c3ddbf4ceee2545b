"""The trial database of a run, before it is opened.

reach_database(variables, retry)       # raises for an address that is wrong
note_database(variables)               # once a study is kept there
"""

from __future__ import annotations

from contextlib import suppress

from search.variables import Variables
from storage.database.address import address_digest
from storage.database.connection import check_database
from storage.database.retry import DatabaseRetry, comes_back, may_be_down


def reach_database(variables: Variables, retry: DatabaseRetry) -> None:
    """Check that the database can be used.

    An address that nobody has used in this RUNS may be wrong: then a server that does not
    answer is a mistake, and nothing to wait for.
    """
    url, paths = variables.storage_url, variables.paths
    passes = comes_back
    if not url.startswith("sqlite") and paths.kept_in(address_digest(url)).exists():
        passes = may_be_down
    retry.wait_for(lambda: check_database(url), passes)


def note_database(variables: Variables) -> None:
    """Note that a study of this RUNS is kept at this address, so that it is no mistake."""
    url = variables.storage_url
    if not url.startswith("sqlite"):
        with suppress(OSError):
            note = variables.paths.kept_in(address_digest(url))
            note.parent.mkdir(parents=True, exist_ok=True)
            note.touch()
