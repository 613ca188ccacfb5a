// Follows a topic for good: `load()` (a promise) reads the present state, `replace(state)` shows it, and
// `apply(event, payload)` is told of every change after it, once and in order. `load` is asked at first, and
// again where Warden says that continuity was lost; it must go on trying until it has the state.
export function follow(socket, topic, { load, replace, apply }) {
  let since; // the cursor of what was seen last
  let held; // changes that come while the state is read
  const channel = socket.channel(topic, () => (since ? { since } : {})); // asked for each join

  async function reload() {
    const mine = (held = []);
    const state = await load();
    if (held !== mine) return; // continuity was lost once more meanwhile
    held = undefined;
    replace(state);
    for (const [event, payload] of mine) apply(event, payload);
  }

  channel.onMessage = (event, payload) => {
    // What still comes of an earlier join while another is under way comes again after its reply.
    if (payload?.cursor && channel.isJoined()) {
      since = payload.cursor;
      if (event === "warden.resync") reload();
      else if (event !== "warden.cursor") held ? held.push([event, payload]) : apply(event, payload);
    }
    return payload;
  };
  channel.join().receive("ok", (reply) => {
    const isFirst = since === undefined;
    since = reply.cursor;
    if (isFirst || reply.resync) reload();
  });
  return channel;
}
