"""The versions that Optuna's tables have had, read once a process.

    read_versions_once()        # before storages are opened

Whenever Optuna opens a database, it asks which version of its tables is the latest. For the answer
it runs the files of all its migrations anew, three times where the tables are new: nine tenths of
the time that opening takes. The files stay the same while a process runs.
"""

from __future__ import annotations

from functools import cache

from alembic.script import ScriptDirectory
from optuna.storages._rdb.storage import _VersionManager

_read_anew = _VersionManager._create_alembic_script


@cache
def _read_versions() -> ScriptDirectory:
    """Return Optuna's migrations. Which database they are for stands elsewhere."""
    return _read_anew(_AnyDatabase())


class _AnyDatabase(_VersionManager):
    """Finds Optuna's migrations without a database."""

    def __init__(self) -> None:
        self.url = ""


def read_versions_once() -> None:
    """Let all storages of this process share what the first one has read."""

    def read(self: _VersionManager) -> ScriptDirectory:
        return _read_versions()

    _VersionManager._create_alembic_script = read  # type: ignore[method-assign]
