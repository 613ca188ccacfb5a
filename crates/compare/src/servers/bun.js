// Bun's WebSocket server and its pub/sub, for `warden-compare`. Sockets subscribe to the topics in their URL.
// A POST publishes its body to a topic, as often as the parameter `times` says.
Bun.serve({
  hostname: "127.0.0.1",
  port: Number(Bun.argv[2]),
  idleTimeout: 0,
  async fetch(request, server) {
    const query = new URL(request.url).searchParams;
    if (request.method !== "POST") {
      return server.upgrade(request, { data: query.get("topics").split(",") }) ? undefined : new Response("", { status: 400 });
    }
    const [topic, times, body] = [query.get("topic"), Number(query.get("times")), await request.text()];
    for (let n = 0; n < times; n++) server.publish(topic, body);
    return new Response();
  },
  websocket: {
    idleTimeout: 0,
    sendPings: false,
    perMessageDeflate: false,
    open(socket) {
      for (const topic of socket.data) socket.subscribe(topic);
    },
    message() {},
  },
});
