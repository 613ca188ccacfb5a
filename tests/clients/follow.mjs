// Follows a topic until the page closes. `load()` (a promise) reads the current state and `replace(state)`
// shows it. `apply(event, payload)` receives every later change, once and in order. `load` is called at the
// beginning and after each loss of continuity; it must retry until it has the state.
export function follow(socket, topic, { load, replace, apply }) {
  let since; // the cursor of the last event seen
  let held; // changes that arrive while the state is loading
  const channel = socket.channel(topic, () => (since ? { since } : {})); // evaluated at each join

  async function reload() {
    const mine = (held = []);
    const state = await load();
    if (held !== mine) return; // a later reload has started in the meantime
    held = undefined;
    replace(state);
    for (const [event, payload] of mine) apply(event, payload);
  }

  channel.onMessage = (event, payload) => {
    // Events of an earlier join may still arrive while a new join is pending. The replay sends them again.
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
