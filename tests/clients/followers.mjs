// Many clients of the `phoenix` package that follow topics with the recipe of docs/protocol.md. It reports
// what the clients see and checks nothing. tests/chaos and tests/it/rolling.rs use it.
//
//   node followers.mjs '{"url": "ws://127.0.0.1:4000/socket", "clients": [{"token": "...", "topics": ["calls"]}]}'
//
// Each line on stdout is an array: the client's number, a topic, what happened, and details.
//   "joined" {resumed, resync}       a join was answered
//   "load" id reason waitedMs        the recipe asks for the state; waitedMs: time since the join was sent
//   "replaced" id                    the recipe shows this state
//   "event" name data                a change was applied; data identifies the event
//   "closed" code                    the socket closed (topic: null)
//   "wrong" response                 a join failed, which no client expects
//
// Each line on stdin is `{"loaded": id}`, or `{"freeze": ms}`: the whole process freezes for that time.

import { createInterface } from "node:readline";
import { Socket } from "phoenix";
import WebSocket from "ws"; // Node 20 has no WebSocket of its own.
import { follow } from "./follow.mjs";

const config = JSON.parse(process.argv[2]);
const loads = new Map();
let lastLoad = 0;

const report = (...line) => process.stdout.write(`${JSON.stringify(line)}\n`);

config.clients.forEach(({ token, topics }, client) => {
  const socket = new Socket(config.url, { transport: WebSocket, authToken: () => token });
  socket.onClose(({ code }) => report(client, null, "closed", code));
  for (const topic of topics) {
    let asked = Date.now();
    let reason = "first";
    const channel = follow(socket, topic, {
      load: () =>
        new Promise((resolve) => {
          const id = ++lastLoad;
          loads.set(id, () => resolve(id));
          report(client, topic, "load", id, reason, Date.now() - asked);
        }),
      replace: (id) => report(client, topic, "replaced", id),
      apply: (event, { data }) => {
        const { org_id, id, writer, n, metadata } = data;
        report(client, topic, "event", event, { org_id, id, writer, n, metadata });
      },
    });
    // The recipe needs neither the reason of a load nor its time, but the test does.
    const { onMessage } = channel;
    channel.onMessage = (event, payload, ...rest) => {
      if (event === "warden.resync") reason = payload.reason;
      return onMessage(event, payload, ...rest);
    };
    const { params } = channel;
    channel.joinPush.payload = () => {
      asked = Date.now();
      return params();
    };
    let joins = 0;
    channel.joinPush.recHooks.unshift({
      status: "ok",
      callback: ({ resync }) => {
        if (resync) reason = "in the reply";
        report(client, topic, "joined", { resumed: joins++ > 0 && !resync, resync });
      },
    });
    channel.joinPush.receive("error", (response) => report(client, topic, "wrong", response));
  }
  socket.connect();
});

// Stdin ends when the test ends. Without this an orphaned process would reconnect for ever.
const lines = createInterface({ input: process.stdin });
lines.on("close", () => process.exit());
lines.on("line", (line) => {
  const command = JSON.parse(line);
  if (command.loaded) {
    loads.get(command.loaded)();
    loads.delete(command.loaded);
  }
  if (command.freeze) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, command.freeze);
});
