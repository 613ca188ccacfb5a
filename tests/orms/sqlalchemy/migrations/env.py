import os

from alembic import context
from sqlalchemy import create_engine

from models import Base


def include_object(obj, name, type_, reflected, compare_to):
    """Ignores Warden's objects: they exist in the database only."""
    if not reflected or compare_to is not None:
        return True
    if type_ == "table":
        return name not in ("organizations", "organization_members")
    if type_ == "column":
        return name != "org_id"
    # An index, a unique constraint or a foreign key.
    return "org_id" not in [column.name for column in obj.columns]


engine = create_engine(os.environ["DATABASE_URL"].replace("postgres://", "postgresql+psycopg://"))
with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_object=include_object,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()
