"""SQLAlchemy 2 over psycopg 3 and psycopg2: the ORM's basics and reflection."""

import datetime
import decimal
import time

import pytest
import sqlalchemy
from sqlalchemy import Column, Integer, MetaData, Numeric, String, Table, inspect, insert, select, text, update
from sqlalchemy.orm import Session, declarative_base


@pytest.fixture(params=["psycopg", "psycopg2"])
def engine(request, server):
    engine = sqlalchemy.create_engine(f"postgresql+{request.param}://app@127.0.0.1:{server.pg_port}/thalweg")
    yield engine
    engine.dispose()


@pytest.fixture
def name():
    return f"alchemy{time.monotonic_ns()}"


def test_core(engine, name):
    table = Table(name, MetaData(), Column("id", Integer, primary_key=True, autoincrement=False), Column("name", String(20)), Column("price", Numeric(10, 2)))
    table.create(engine)
    with engine.begin() as connection:
        connection.execute(insert(table), [{"id": n, "name": f"n{n}", "price": decimal.Decimal(n) / 4} for n in range(1, 6)])
        connection.execute(update(table).where(table.c.id == 2).values(name="two"))
    with engine.connect() as connection:
        rows = connection.execute(select(table.c.name, table.c.price).where(table.c.id <= 2).order_by(table.c.id)).all()
        assert [tuple(row) for row in rows] == [("n1", decimal.Decimal("0.25")), ("two", decimal.Decimal("0.50"))]
        assert connection.execute(text("SELECT count(*) FROM " + name)).scalar() == 5
        with pytest.raises(sqlalchemy.exc.IntegrityError) as caught:
            connection.execute(insert(table), {"id": 1})
        assert (getattr(caught.value.orig, "sqlstate", None) or caught.value.orig.pgcode) == "23505"
    with pytest.raises(sqlalchemy.exc.ProgrammingError):
        with engine.connect() as connection:
            connection.execute(text("SELECT * FROM nosuch"))
    table.drop(engine)


def test_orm(engine, name):
    Base, table_name = declarative_base(), name

    class Item(Base):
        __tablename__ = table_name
        id = Column(Integer, primary_key=True, autoincrement=False)
        name = Column(String)
        at = Column(sqlalchemy.DateTime(timezone=True))

    Base.metadata.create_all(engine)
    instant = datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc)
    with Session(engine) as session:
        session.add_all([Item(id=1, name="a", at=instant), Item(id=2, name="b")])
        session.commit()
        session.get(Item, 2).name = "bb"
        session.delete(session.get(Item, 1))
        session.commit()
    with Session(engine) as session:
        assert [(item.id, item.name) for item in session.query(Item).order_by(Item.id)] == [(2, "bb")]
        session.add(Item(id=3))
        session.rollback()
        assert session.query(Item).count() == 1


def test_reflection(engine, name):
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE {name} (id int PRIMARY KEY, name varchar(20) NOT NULL, price numeric(10,2), tags text[], at timestamptz, o bool DEFAULT true)"))
    with engine.begin() as connection:
        connection.execute(text(f"CREATE VIEW {name}_plain AS SELECT id FROM {name}"))
        connection.execute(text(f"CREATE MATERIALIZED VIEW {name}_kept AS SELECT name, count(*) AS n FROM {name} GROUP BY name"))
    inspector = inspect(engine)
    assert "public" in inspector.get_schema_names()
    assert name in inspector.get_table_names()
    assert f"{name}_plain" in inspector.get_view_names()
    assert f"{name}_kept" in inspector.get_materialized_view_names()
    columns = {column["name"]: column for column in inspector.get_columns(name)}
    assert list(columns) == ["id", "name", "price", "tags", "at", "o"]
    assert str(columns["price"]["type"]) == "NUMERIC(10, 2)" and columns["name"]["type"].length == 20
    assert not columns["name"]["nullable"] and columns["price"]["nullable"]
    assert isinstance(columns["tags"]["type"], sqlalchemy.ARRAY) and columns["at"]["type"].timezone
    assert columns["o"]["default"] == "true"
    assert inspector.get_pk_constraint(name)["constrained_columns"] == ["id"]
    assert inspector.get_foreign_keys(name) == []
    assert [column["name"] for column in inspector.get_columns(f"{name}_kept")] == ["name", "n"]
    table = Table(name, MetaData(), autoload_with=engine)
    assert [column.name for column in table.primary_key] == ["id"]
