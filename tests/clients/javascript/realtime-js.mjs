// `@supabase/realtime-js` on npm. Three things differ from its use with Supabase:
//
// - It puts `apikey` into the URL, where Warden accepts no credential. Its `transport` is a class, so a
//   subclass removes the parameter and sends the token as a subprotocol.
// - `client.channel(name)` joins the topic `realtime:<name>`. Warden's topics have no prefix, so the channel
//   is constructed with the topic itself.
// - It has no option for the payload of a join. `updateJoinPayload` adds the cursor to it.

import { createInterface } from "node:readline";
import { RealtimeChannel, RealtimeClient } from "@supabase/realtime-js";
import WebSocket from "ws"; // Node 20 has no WebSocket of its own.

const { URL: address, TOPIC: topic } = process.env;
let token = process.env.TOKEN;
/** Reference of the message that carried the fresh token. It is answered like any other push. */
let refresh;

class TokenInSubprotocol extends WebSocket {
  constructor(endpoint) {
    const url = new URL(endpoint);
    url.searchParams.delete("apikey");
    super(url, ["phoenix", `base64url.bearer.phx.${Buffer.from(token).toString("base64url")}`]);
    this.on("message", (data) => {
      const [, ref, , event, payload] = JSON.parse(data);
      if (event === "phx_reply" && ref === refresh && payload.status === "ok") console.log("refreshed");
    });
  }

  send(data) {
    const [, ref, , event] = JSON.parse(data);
    if (event === "access_token") refresh = ref;
    super.send(data);
  }
}

const client = new RealtimeClient(address, {
  transport: TokenInSubprotocol,
  params: { apikey: "unused" }, // the constructor requires one
  heartbeatIntervalMs: 1000,
  heartbeatCallback: (status) => status === "ok" && console.log("heartbeat"),
});

const channel = new RealtimeChannel(topic, { config: {} }, client);
client.channels.push(channel);
const remember = (cursor) => channel.updateJoinPayload({ since: cursor });
channel.on("test.event", {}, ({ data, cursor }) => {
  remember(cursor);
  console.log(`event ${data.n}`);
});
for (const event of ["warden.cursor", "warden.resync"]) channel.on(event, {}, ({ cursor }) => remember(cursor));
channel.subscribe((status, error) => error && console.log(`error ${status} ${error.message}`));
channel.joinPush.receive("ok", ({ cursor }) => {
  remember(cursor);
  console.log(`joined ${cursor}`);
});

createInterface({ input: process.stdin }).on("line", (line) => {
  if (line === "leave") return channel.unsubscribe().then((status) => status === "ok" && console.log("left"));
  token = line.split(" ")[1];
  client.setAuth(token);
});
