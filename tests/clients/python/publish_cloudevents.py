"""The official SDK of CloudEvents publishes one event in each mode that it has, and one of them twice.

Environment: URL (http://.../v1/events), TOKEN, TOPIC. Prints the answer to each request on a line.
"""

import os
from http.client import HTTPConnection
from urllib.parse import urlsplit

from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent


def event(n: int) -> CloudEvent:
    attributes = {"source": "/sdk/python", "type": "test.event", "subject": os.environ["TOPIC"]}
    return CloudEvent(attributes, {"n": n})


def publish(message) -> None:
    url = urlsplit(os.environ["URL"])
    connection = HTTPConnection(url.netloc)
    headers = {**message.headers, "authorization": f"Bearer {os.environ['TOKEN']}"}
    connection.request("POST", url.path, body=message.body, headers=headers)
    print(connection.getresponse().read().decode())


structured = event(2)
publish(to_binary_event(event(1)))
publish(to_structured_event(structured))
publish(to_binary_event(structured))
