// Drives the `phoenix` package from npm as a browser would, for tests/it/phoenix. It executes commands and
// reports; it contains no assertions, no waiting and no knowledge of the protocol.
//
//   node phoenix.mjs '{"url": "ws://127.0.0.1:4000/socket", "authToken": "...", "connect": true}'
//
// Configuration (argv[2]): `url`; `authToken`, passed to the Socket as a string, or as a function if
// `authTokenFunction` is true; `topics`, joined at the start; `connect`, whether to connect at the start; and
// `params`, `heartbeatIntervalMs`, `timeout`, passed to the Socket unchanged.
//
// Each line on stdout is an object; `on` names what happened:
//   ready                                          commands are accepted from now on
//   open, error {message}, close {code, reason}    the socket
//   frame {join_ref, ref, topic, event, payload}   any frame that the socket received
//   event {topic, event, payload}                  an event that a channel received
//   channel {topic, event}                         a channel closed or failed (phx_close, phx_error)
//   reply {to, topic, status, response}            the reply to a join, a leave or a push, or its timeout
//   done {command}                                 a command without a reply of its own was executed
//
// Each line on stdin is an object; `do` is one of: connect, disconnect {code, reason}, join {topic, since},
// leave {topic}, push {topic, event, payload}, heartbeat, token {token}. A join with `since: true` sends the
// cursor of the channel's last event, at each rejoin.

import { createInterface } from "node:readline";
import { Socket } from "phoenix";
import WebSocket from "ws"; // Node 20 has no WebSocket of its own.

const config = JSON.parse(process.argv[2]);
let token = config.authToken;
/** The latest channel of each topic. */
const channels = new Map();

function report(on, fields = {}) {
  process.stdout.write(`${JSON.stringify({ on, ...fields })}\n`);
}

const options = { transport: WebSocket };
if (token !== undefined) options.authToken = config.authTokenFunction ? () => token : token;
for (const name of ["params", "heartbeatIntervalMs", "timeout"]) {
  if (config[name] !== undefined) options[name] = config[name];
}
const socket = new Socket(config.url, options);
socket.onOpen(() => report("open"));
socket.onError((error) => report("error", { message: error?.message }));
socket.onClose(({ code, reason }) => report("close", { code, reason }));
socket.onMessage((message) => report("frame", message));

/** Reports the reply to a push. */
function reportReply(push, to, topic) {
  for (const status of ["ok", "error", "timeout"]) {
    push.receive(status, (response) => report("reply", { to, topic, status, response }));
  }
}

function join(topic, resume) {
  let cursor;
  const channel = socket.channel(topic, () => (resume && cursor ? { since: cursor } : {}));
  channel.onMessage = (event, payload) => {
    if (event === "phx_close" || event === "phx_error") {
      report("channel", { topic, event });
    } else if (!event.startsWith("phx_") && !event.startsWith("chan_reply_")) {
      cursor = payload.cursor ?? cursor;
      report("event", { topic, event, payload });
    }
    return payload;
  };
  channels.set(topic, channel);
  reportReply(channel.join(), "join", topic);
}

const commands = {
  connect: () => socket.connect(),
  disconnect: ({ code, reason }) => socket.disconnect(() => report("done", { command: "disconnect" }), code, reason),
  join: ({ topic, since }) => join(topic, since),
  leave: ({ topic }) => reportReply(channels.get(topic).leave(), "leave", topic),
  push: ({ topic, event, payload }) => reportReply(channels.get(topic).push(event, payload), event, topic),
  heartbeat: () => socket.sendHeartbeat(),
  token: (command) => {
    token = command.token;
    report("done", { command: "token" });
  },
};

// Stdin ends when the test ends. Without this an orphaned process would reconnect for ever.
const lines = createInterface({ input: process.stdin });
lines.on("close", () => process.exit());
lines.on("line", (line) => {
  const command = JSON.parse(line);
  commands[command.do](command);
});

for (const topic of config.topics ?? []) join(topic);
report("ready");
if (config.connect) socket.connect();
