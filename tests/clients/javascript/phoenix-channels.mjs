// `phoenix-channels` on npm, a Phoenix client for Node. It speaks version 1 of the protocol and has no option
// for a token, but three options for everything that differs:
//
// - `transport`: asks for version 2 and sends the token in a header. The package's own WebSocket can do that.
// - `encode` and `decode`: messages of version 2 are arrays.
//
// The payload of a join is an object that is sent again with each join, so the cursor is written into it.

import { createInterface } from "node:readline";
import phoenix from "phoenix-channels";
import websocket from "websocket";

const { URL: address, TOPIC: topic } = process.env;
let token = process.env.TOKEN;

function TransportWithToken(endpoint) {
  const url = new URL(endpoint);
  url.searchParams.set("vsn", "2.0.0");
  return new websocket.w3cwebsocket(url.href, undefined, undefined, { Authorization: `Bearer ${token}` });
}

const joinRef = (topic) => socket.channels.find((channel) => channel.topic === topic)?.joinRef() ?? null;
const socket = new phoenix.Socket(address, {
  transport: TransportWithToken,
  heartbeatIntervalMs: 1000,
  encode: ({ topic, event, payload, ref }, send) => send(JSON.stringify([joinRef(topic), ref, topic, event, payload])),
  decode: (data, receive) => {
    const [, ref, topic, event, payload] = JSON.parse(data);
    receive({ topic, event, payload, ref });
  },
});
socket.onMessage(({ topic, event, payload }) => {
  if (topic === "phoenix" && event === "phx_reply" && payload.status === "ok") console.log("heartbeat");
});

const params = {};
const channel = socket.channel(topic, params);
for (const event of ["test.event", "warden.cursor", "warden.resync"]) {
  channel.on(event, ({ cursor, data }) => {
    params.since = cursor;
    if (data) console.log(`event ${data.n}`);
  });
}
socket.connect();
channel.join().receive("ok", ({ cursor }) => {
  params.since = cursor;
  console.log(`joined ${cursor}`);
});

createInterface({ input: process.stdin }).on("line", (line) => {
  if (line === "leave") return channel.leave().receive("ok", () => console.log("left"));
  token = line.split(" ")[1];
  channel.push("access_token", { access_token: token }).receive("ok", () => console.log("refreshed"));
});
