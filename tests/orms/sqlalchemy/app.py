"""Checks of the adopted application: `app.py inserts` and `app.py isolation`."""

import os
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import create_engine, delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models import Comment, Project, Task
from tenancy import acting_as

URL = os.environ["DATABASE_URL"].replace("postgres://", "postgresql+psycopg://")
A, B = ({"sub": os.environ[f"USER_{x}"], "app_metadata": {"org_id": os.environ[f"ORG_{x}"]}} for x in "AB")
engine = create_engine(URL, pool_size=4, max_overflow=0)


def fails(work):
    try:
        work()
    except DBAPIError as e:
        return str(e.orig)
    raise AssertionError("no error")


def inserts():
    with acting_as(A), Session(engine) as session:
        project = Project(owner_id=uuid.UUID(A["sub"]), name="new")
        project.tasks = [Task(number=1, summary="first"), Task(number=2, summary="second")]
        session.add(project)
        session.commit()

        session.execute(insert(Task), [{"project_id": project.id, "number": n, "summary": "bulk"} for n in range(3, 103)])
        returned = session.scalars(
            insert(Task).returning(Task), [{"project_id": project.id, "number": n, "summary": "returned"} for n in (103, 104)]
        ).all()
        assert [task.priority for task in returned] == [0, 0]

        row = {"project_id": project.id, "number": 1, "summary": "upserted"}
        statement = upsert(Task).values(row)
        session.execute(statement.on_conflict_do_update(index_elements=["project_id", "number"], set_={"summary": "upserted"}))
        session.execute(upsert(Task).values(row).on_conflict_do_nothing())
        session.add(Comment(task_id=returned[0].id, body="a comment"))
        session.commit()

        assert session.scalar(select(func.count()).select_from(Task).where(Task.project_id == project.id)) == 104
        assert session.scalar(select(Task.summary).where(Task.project_id == project.id, Task.number == 1)) == "upserted"
        for table in "projects", "tasks", "comments":
            orgs = session.execute(text(f"select distinct org_id::text from {table}")).scalars().all()
            assert orgs == [A["app_metadata"]["org_id"]], (table, orgs)


def isolation():
    def names(session):
        return set(session.scalars(select(Project.name)))

    with acting_as(B), Session(engine) as session:
        of_b = session.scalar(select(Project).where(Project.name == "old B"))
        assert names(session) == {"old B"}
    with acting_as(A), Session(engine) as session:
        assert "old A" in names(session) and "old B" not in names(session)
        assert session.get(Project, of_b.id) is None
        assert session.execute(update(Project).where(Project.id == of_b.id).values(name="mine")).rowcount == 0
        assert session.execute(delete(Task).where(Task.project_id == of_b.id)).rowcount == 0
    with acting_as(A), Session(engine) as session:
        session.add(Task(project_id=of_b.id, number=9, summary="in another organisation"))
        fails(session.commit)

    # One connection, so each transaction follows another one with other claims.
    single = create_engine(URL, pool_size=1, max_overflow=0)

    def see(claims=None, fail=False):
        def look():
            with Session(single) as session:
                seen = session.scalar(text("select pg_backend_pid()")), names(session)
                session.execute(text("select 1 / 0")) if fail else session.commit()
            return seen

        if claims is None:
            return look()
        with acting_as(claims):
            return fails(look) if fail else look()

    pid, seen = see(A)
    assert "old A" in seen
    assert see() == (pid, set())
    see(A, fail=True)
    assert see() == (pid, set())
    assert see(B) == (pid, {"old B"})
    with Session(single) as session:
        session.add(Project(owner_id=uuid.UUID(A["sub"]), name="without claims"))
        fails(session.commit)

    def request(n):
        with acting_as((A, B)[n % 2]), Session(engine) as session:
            return n, names(session)

    with ThreadPoolExecutor(8) as pool:
        for n, seen in pool.map(request, range(100)):
            assert seen == {"old B"} if n % 2 else "old B" not in seen and "old A" in seen, (n, seen)


{"inserts": inserts, "isolation": isolation}[sys.argv[1]]()
