"""Our own tables, which stand beside Optuna's in the trial database.

    genstudy_metrics      what was measured in each epoch of a trial: a row a trial, epoch and name
    genstudy_leases       who runs which trial, and until when that counts: a row a trial
    genstudy_fences       which attempt at a trial may write: a row a trial
    genstudy_rungs        how good trials were where they pause: a row a trial and rung
    genstudy_returns      ended trials that have gone on: a row a trial
    genstudy_finishes     who retrains and exports the best of a study: a row a study
    genstudy_extractors   the feature extractors that values were measured with: a row an extractor

    create_own_tables(engine)     # creates those that are missing

SQLite gives the ids of deleted trials again. What these tables hold of an id goes in the moment in
which a trial gets it, whoever makes that trial: Optuna's own scripts know nothing of our tables.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.engine import URL

own_tables = MetaData()


def is_sqlite(place: URL | Engine) -> bool:
    """Return whether a database is a file of SQLite; otherwise it is Postgres."""
    url = place.url if isinstance(place, Engine) else place
    return url.get_backend_name() == "sqlite"


metrics = Table(
    "genstudy_metrics",
    own_tables,
    Column("trial_id", Integer, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("value", Float(53)),  # NULL: not finite
)

extractors = Table(
    "genstudy_extractors",
    own_tables,
    Column("hash", String(64), primary_key=True),  # SHA-256 of the weights, in hexadecimal
    Column("content", LargeBinary, nullable=False),  # a safetensors file
)

leases = Table(
    "genstudy_leases",
    own_tables,
    Column("trial_id", Integer, primary_key=True),
    Column("owner", String(200)),  # NULL: released
    Column("attempts", Integer, nullable=False, default=0),  # workers that have run the trial
    Column("renewed", Float(53), nullable=False),  # seconds, by the database's clock
)

fences = Table(
    "genstudy_fences",
    own_tables,
    Column("trial_id", Integer, primary_key=True),
    Column("fence", Integer, nullable=False),  # of the latest attempt: it only grows
)

rungs = Table(
    "genstudy_rungs",
    own_tables,
    Column("trial_id", Integer, primary_key=True),
    Column("rung", Integer, primary_key=True),  # the epoch after which that is
    Column("value", Float(53), nullable=False),  # the best until then
    Column("waits", Integer, nullable=False),  # 1: the trial pauses there
)

returns = Table(
    "genstudy_returns",
    own_tables,
    Column("trial_id", Integer, primary_key=True),
    Column("times", Integer, nullable=False),  # how often
)

finishes = Table(
    "genstudy_finishes",
    own_tables,
    Column("token", String(100), primary_key=True),  # the study's own: ids are given again
    Column("fence", Integer, nullable=False),  # of the latest claim: it only grows
    Column("owner", String(200)),  # NULL: nobody is at it
    Column("renewed", Integer, nullable=False),  # how often the owner has said that it is at it
    Column("runs", String(100), nullable=False),  # the identity of the folder RUNS
    Column("place", Text, nullable=False),  # of that folder, for people to read
    Column("result", Text),  # JSON; NULL: nobody has come to the end
    Column("meetings", Text, nullable=False),  # JSON: the measurements on the test images
)

# Fences stay: what a worker of the deleted trial still writes is refused.
FORGET = text(
    "CREATE TRIGGER IF NOT EXISTS genstudy_forget AFTER INSERT ON trials BEGIN "
    "DELETE FROM genstudy_metrics WHERE trial_id = NEW.trial_id; "
    "DELETE FROM genstudy_leases WHERE trial_id = NEW.trial_id; END"
)
FORGET_RUNGS = text(  # apart: databases of before have the other already
    "CREATE TRIGGER IF NOT EXISTS genstudy_forget_rungs AFTER INSERT ON trials BEGIN "
    "DELETE FROM genstudy_rungs WHERE trial_id = NEW.trial_id; END"
)
FORGET_RETURNS = text(
    "CREATE TRIGGER IF NOT EXISTS genstudy_forget_returns AFTER INSERT ON trials BEGIN "
    "DELETE FROM genstudy_returns WHERE trial_id = NEW.trial_id; END"
)


def create_own_tables(engine: Engine) -> None:
    """Create those of our tables that are missing, beside Optuna's."""
    own_tables.create_all(engine)
    if is_sqlite(engine):
        with engine.begin() as connection:
            connection.execute(FORGET)
            connection.execute(FORGET_RUNGS)
            connection.execute(FORGET_RETURNS)
