"""Checks of the adopted application: `app.py inserts` and `app.py isolation`."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
django.setup()

from django.db import DatabaseError, connection, transaction  # noqa: E402
from django.http import HttpRequest  # noqa: E402

from shop.models import Comment, Project, Task  # noqa: E402
from tenancy import acting_as, claims_middleware  # noqa: E402

A, B = ({"sub": os.environ[f"USER_{x}"], "app_metadata": {"org_id": os.environ[f"ORG_{x}"]}} for x in "AB")


def fails(work):
    try:
        work()
    except DatabaseError as e:
        return e
    raise AssertionError("no error")


def names():
    return set(Project.objects.values_list("name", flat=True))


def inserts():
    with acting_as(A):
        project = Project.objects.create(owner_id=A["sub"], name="new")
        first = project.tasks.create(number=1, summary="first")
        assert first.pk is not None
        bulk = Task.objects.bulk_create(Task(project=project, number=n, summary="bulk") for n in range(2, 102))
        assert all(task.pk is not None for task in bulk)
        Task.objects.bulk_create(
            [Task(project=project, number=1, summary="upserted")],
            update_conflicts=True,
            unique_fields=["project", "number"],
            update_fields=["summary"],
        )
        Task.objects.bulk_create([Task(project=project, number=1, summary="ignored")], ignore_conflicts=True)
        Task.objects.update_or_create(project=project, number=2, defaults={"summary": "updated"})
        Comment.objects.create(task=first, body="a comment")

        assert project.tasks.count() == 101
        assert project.tasks.get(number=1).summary == "upserted"
        with connection.cursor() as cursor:
            for table in "projects", "tasks", "comments":
                cursor.execute(f"select distinct org_id::text from {table}")
                assert cursor.fetchall() == [(A["app_metadata"]["org_id"],)], table
        # Django itself deletes the children, because its foreign keys do not cascade.
        temporary = Project.objects.create(owner_id=A["sub"], name="temporary")
        temporary.tasks.create(number=1, summary="temporary")
        temporary.delete()


def isolation():
    with acting_as(B):
        of_b = Project.objects.get(name="old B")
        assert names() == {"old B"}
    with acting_as(A):
        assert "old A" in names() and "old B" not in names()
        assert Project.objects.filter(pk=of_b.pk).update(name="mine") == 0
        assert Task.objects.filter(project=of_b.pk).delete()[0] == 0

    def elsewhere():
        with acting_as(A):
            Task.objects.create(project=of_b, number=9, summary="in another organisation")

    fails(elsewhere)

    # One connection, so each transaction follows another one with other claims.
    def pid():
        with connection.cursor() as cursor:
            cursor.execute("select pg_backend_pid()")
            return cursor.fetchone()[0]

    with acting_as(A):
        first = pid()
        assert "old A" in names()
    assert (pid(), names()) == (first, set())

    def error():
        with acting_as(A):
            with connection.cursor() as cursor:
                cursor.execute("select 1 / 0")

    fails(error)
    assert (pid(), names()) == (first, set())
    with acting_as(B):
        assert (pid(), names()) == (first, {"old B"})
    with transaction.atomic():
        assert names() == set()
    fails(lambda: Project.objects.create(owner_id=A["sub"], name="without claims"))

    # The claims do not leave the view of the request.
    request = HttpRequest()
    assert claims_middleware(lambda request: names())(request) == set()
    request.claims = B
    assert claims_middleware(lambda request: names())(request) == {"old B"}
    assert names() == set()

    def request(n):
        with acting_as((A, B)[n % 2]):
            return n, names()

    with ThreadPoolExecutor(4) as pool:
        for n, seen in pool.map(request, range(100)):
            assert seen == {"old B"} if n % 2 else "old B" not in seen and "old A" in seen, (n, seen)


{"inserts": inserts, "isolation": isolation}[sys.argv[1]]()
