"""Sets the claims of the request in one transaction."""

import json
from contextlib import contextmanager

from django.db import connection, transaction


@contextmanager
def acting_as(claims):
    """Runs a block in a transaction with the claims of a verified token."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            # The third argument limits the setting to this transaction, so the next request on this
            # connection does not inherit it.
            cursor.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)])
        yield


def claims_middleware(get_response):
    """Runs each view of an authenticated request in a transaction with its claims."""

    def middleware(request):
        claims = getattr(request, "claims", None)
        if claims is None:
            return get_response(request)
        with acting_as(claims):
            return get_response(request)

    return middleware
