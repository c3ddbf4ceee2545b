"""Objects that live in the trial database itself (FILES=database): small files, and no other place.

    DatabaseObjects(engine).write("artifacts/1f", file)

It has the methods of Optuna's artifact stores. What is larger than `LARGEST` is refused: a database
is no disk.
"""

from __future__ import annotations

from io import BytesIO
from typing import BinaryIO

from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy import Engine, select

from storage.database.file_records import objects
from storage.database.transactions import read, write
from storage.errors import FileTooLarge

LARGEST = 16 * 2**20  # bytes


class DatabaseObjects:
    """The objects in the table ``genstudy_objects``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def open_reader(self, artifact_id: str) -> BinaryIO:
        with read(self.engine) as connection:
            found = connection.scalar(
                select(objects.c.content).where(objects.c.name == artifact_id)
            )
        if found is None:
            raise ArtifactNotFound(f"there is no object {artifact_id}")
        return BytesIO(bytes(found))

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        content = content_body.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise FileTooLarge(
                f"a file of more than {LARGEST >> 20} MB does not go into the database; FILES "
                "can name a folder that every machine sees, or a bucket"
            )
        with write(self.engine) as connection:
            connection.execute(objects.delete().where(objects.c.name == artifact_id))
            connection.execute(objects.insert().values(name=artifact_id, content=content))

    def remove(self, artifact_id: str) -> None:
        with write(self.engine) as connection:
            connection.execute(objects.delete().where(objects.c.name == artifact_id))
