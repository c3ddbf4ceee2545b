"""Where shared files live: what FILES may say, and what is refused.

    parse_files("s3://bucket/studies")      # a bucket, and how the names in it begin
    parse_files("gs://bucket")              # likewise at Google
    parse_files("database")                 # the trial database, for small files
    parse_files("/mnt/shared/studies")      # a folder that every machine sees

Who may read a bucket is said by the environment or by files of the cloud's own tools, and never by
an address: addresses stand in command lines, logs and databases.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from storage.errors import FilesUnusable, short

BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
PREFIX = re.compile(r"[^\s\\?#%]{0,200}")
DATABASE = "database"
HINT = "use a folder that every machine sees, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or 'database'"


class Kind(StrEnum):
    """What a place is, with the word that its address begins with."""

    FOLDER = "folder"
    DATABASE = "database"
    S3 = "s3"
    GCS = "gs"


CREDENTIALS = {
    Kind.S3: "AWS_PROFILE, AWS_ACCESS_KEY_ID or ~/.aws",
    Kind.GCS: "GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth application-default login`",
}


@dataclass(frozen=True, kw_only=True)
class FilesPlace:
    """One place.

    address: as it is written and shown; bucket, prefix: of a bucket; folder: of a folder
    """

    kind: Kind
    address: str
    bucket: str = ""
    prefix: str = ""
    folder: Path = Path()

    @property
    def is_bucket(self) -> bool:
        return self.kind in CREDENTIALS


def parse_files(written: str) -> FilesPlace:
    """Return the place that FILES names. Raises `FilesUnusable`, which shows no secret."""
    if written.lower() == DATABASE:
        return FilesPlace(kind=Kind.DATABASE, address=DATABASE)
    scheme, slashes, rest = written.partition("://")
    if slashes:
        return _parse_bucket(scheme.lower(), rest)
    if re.match("(s3|gs|gcs):", written, re.IGNORECASE):
        raise FilesUnusable(f"FILES={short(written.partition('@')[0])}: write s3://BUCKET/PREFIX")
    try:
        folder = Path(written).expanduser().absolute()
    except RuntimeError as error:  # ~nobody
        raise FilesUnusable(f"FILES={short(written)}: no such user; write the path out") from error
    return FilesPlace(kind=Kind.FOLDER, address=str(folder), folder=folder)


def _parse_bucket(scheme: str, rest: str) -> FilesPlace:
    if scheme not in (Kind.S3, Kind.GCS):
        raise FilesUnusable(f"FILES begins with {short(scheme)}://, which is not supported; {HINT}")
    kind = Kind(scheme)
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket or ":" in bucket or "?" in rest:
        raise FilesUnusable(
            f"FILES={scheme}://... holds more than a bucket and a prefix; keys and tokens do not "
            f"belong into an address, which ps and logs show: give them by {CREDENTIALS[kind]}"
        )
    if not BUCKET.fullmatch(bucket):
        raise FilesUnusable(
            f"FILES={scheme}://{short(bucket)}: this is no name of a bucket; use "
            f"{scheme}://BUCKET/PREFIX"
        )
    prefix = prefix.strip("/")
    if not PREFIX.fullmatch(prefix) or ".." in prefix.split("/"):
        raise FilesUnusable(
            f"FILES={scheme}://{bucket}/{short(prefix)}: a prefix has at most 200 characters, "
            "without spaces, '..' and \\?#%"
        )
    address = f"{scheme}://{bucket}/{prefix}".rstrip("/")
    return FilesPlace(kind=kind, address=address, bucket=bucket, prefix=prefix)
