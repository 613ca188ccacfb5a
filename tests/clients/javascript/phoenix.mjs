// `phoenix` on npm. Its authToken is a function, so each reconnect presents the latest token.

import { createInterface } from "node:readline";
import { Socket } from "phoenix";
import WebSocket from "ws"; // Node 20 has no WebSocket of its own.

const { URL: url, TOPIC: topic } = process.env;
let token = process.env.TOKEN;
let cursor;

const socket = new Socket(url, { transport: WebSocket, authToken: () => token, heartbeatIntervalMs: 1000 });
socket.onMessage(({ topic, event, payload }) => {
  if (topic === "phoenix" && event === "phx_reply" && payload.status === "ok") console.log("heartbeat");
});
const channel = socket.channel(topic, () => (cursor ? { since: cursor } : {}));
channel.onMessage = (event, payload) => {
  if (payload?.cursor && channel.isJoined()) cursor = payload.cursor;
  return payload;
};
channel.on("test.event", ({ data }) => console.log(`event ${data.n}`));
channel.join().receive("ok", (reply) => {
  cursor = reply.cursor;
  console.log(`joined ${cursor}`);
});
socket.connect();

createInterface({ input: process.stdin }).on("line", (line) => {
  if (line === "leave") return channel.leave().receive("ok", () => console.log("left"));
  token = line.split(" ")[1];
  channel.push("access_token", { access_token: token }).receive("ok", () => console.log("refreshed"));
});
