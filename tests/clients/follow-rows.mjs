// Keeps the rows of a table in a map by id, and calls `changed(rows)` after each change. It reads the rows
// when it joins, and again after each loss of continuity. `fetchRow(id)` resolves to a row that is too large
// to be sent, or to null if it does not exist, and tries again meanwhile. Returns a function that ends it.
export function followRows(socket, topic, { parameters = {}, fetchRow, changed }) {
  const rows = new Map();
  const fetching = new Map(); // the last fetch of each row that is too large
  let channel;

  function put(row, truncated) {
    fetching.delete(row.id);
    if (!truncated) return rows.set(row.id, row);
    const fetch = fetchRow(row.id); // the former value is kept meanwhile
    fetching.set(row.id, fetch);
    fetch.then((whole) => {
      if (fetching.get(row.id) !== fetch) return; // a later event or page has the row
      fetching.delete(row.id);
      if (whole) rows.set(row.id, whole);
      else rows.delete(row.id);
      changed(rows);
    });
  }

  function remove(id) {
    fetching.delete(id);
    rows.delete(id);
  }

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
      if (event === "warden.snapshot") payload.rows.forEach((row, at) => put(row, payload.truncated?.includes(at)));
      else if (event.endsWith(".deleted")) remove(payload.data.id);
      else if (payload?.data) put(payload.data, payload.truncated);
      if (payload?.cursor) {
        since = payload.cursor;
        changed(rows);
      }
      return payload;
    };
    mine.join().receive("ok", (reply) => {
      if (reply.resync) startOver();
      else if (!since) [rows, fetching].forEach((all) => all.clear()); // earlier pages may be incomplete
    });
  }

  function startOver() {
    channel.leave();
    join();
  }

  join();
  return () => {
    fetching.clear();
    channel.leave();
  };
}
