// Keeps the rows of a table in a map by id, and calls `changed(rows)` after each change. It reads the rows
// when it joins, and again after each loss of continuity. Returns a function that ends it.
export function followRows(socket, topic, { parameters = {}, changed }) {
  const rows = new Map();
  let channel;

  function join() {
    let since; // the cursor of the last event seen; none before the last page
    const mine = (channel = socket.channel(topic, () => (since ? { since } : { snapshot: parameters })));
    mine.onMessage = (event, payload) => {
      // Messages of an earlier join may still arrive while a new join is pending.
      if (!mine.isJoined()) return payload;
      if (event === "warden.resync") {
        startOver();
        return payload;
      }
      if (event === "warden.snapshot") payload.rows.forEach((row) => rows.set(row.id, row));
      else if (event.endsWith(".deleted")) rows.delete(payload.data.id);
      else if (payload?.data) rows.set(payload.data.id, payload.data);
      if (payload?.cursor) {
        since = payload.cursor;
        changed(rows);
      }
      return payload;
    };
    mine.join().receive("ok", (reply) => {
      if (reply.resync) startOver();
      else if (!since) rows.clear(); // the pages of an earlier join may be incomplete
    });
  }

  function startOver() {
    channel.leave();
    join();
  }

  join();
  return () => channel.leave();
}
