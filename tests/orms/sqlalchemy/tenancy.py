"""Sets the claims of the request in every transaction."""

import json
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy import event
from sqlalchemy.engine import Engine

_claims: ContextVar[dict | None] = ContextVar("claims", default=None)


@contextmanager
def acting_as(claims: dict):
    """Runs a request with the claims of its verified token."""
    token = _claims.set(claims)
    try:
        yield
    finally:
        _claims.reset(token)


@event.listens_for(Engine, "begin")
def _set_claims(connection):
    # The third argument limits the setting to this transaction, so the next user of a pooled connection
    # does not inherit it.
    if (claims := _claims.get()) is not None:
        connection.exec_driver_sql("select set_config('request.jwt.claims', %s, true)", (json.dumps(claims),))
