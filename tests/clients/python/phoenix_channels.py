"""phoenix-channels-python-client on PyPI.

It puts an API key into the URL, unless it has a header of its own for a token. Warden ignores that header
and reads `Authorization`. The package has no means to push a message or to change the payload of a join, so
it can neither send a fresh token nor resume with a cursor. It drops broadcasts, because it expects a
`join_ref` in them.
"""

import asyncio
import os
import sys

from phoenix_channels_python_client import PHXChannelsClient


def report(*words: object) -> None:
    print(*words, flush=True)


async def on_event(payload: dict) -> None:
    report("event", payload["data"]["n"])


async def main() -> None:
    topic = os.environ["TOPIC"]

    async def rejoined() -> None:
        report("joined")

    client = PHXChannelsClient(
        os.environ["URL"] + "/websocket",
        "unused",
        heartbeat_interval_s=1,
        on_heartbeat_ack=lambda: report("heartbeat"),
        on_reconnect=rejoined,
        additional_headers={
            "Authorization": f"Bearer {os.environ['TOKEN']}",
            "x-auth-token": "unused",
        },
    )
    async with client:
        await client.subscribe_to_topic(topic)
        client.add_event_handler(topic, "test.event", on_event)
        report("joined")
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line == "leave\n":
                await client.unsubscribe_from_topic(topic)
                report("left")


asyncio.run(main())
