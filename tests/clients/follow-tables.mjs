// Shows the rows of several tables together, only in states that the database had. `show(tables, stale)` gets
// a map of rows by id for each topic, and a set of ids: rows that were too large to be sent. Of these it has
// the former row, or what is known of it. All topics must be on one socket. Returns a function that ends it.
export function followTables(socket, topics, show) {
  const tables = new Map(topics.map((topic) => [topic, new Map()])); // the rows that are shown
  const stale = new Map(topics.map((topic) => [topic, new Set()])); // ids of rows that were too large
  const held = new Map(topics.map((topic) => [topic, []])); // messages since the last state that was shown
  const ready = new Set(); // topics that have had a mark since they were joined
  const unread = new Set(topics); // topics whose present rows were never shown
  const channels = new Map();
  let since; // the cursor of the last state that was shown
  let last; // the cursor of the last mark
  let awaited = new Set(); // topics that had events before the last mark, and have not reached it

  function join(topic) {
    const from = () => (unread.has(topic) ? { snapshot: {} } : { since });
    const channel = socket.channel(topic, () => ({ ...from(), marks: true })); // evaluated at each join
    channels.set(topic, channel);
    channel.onMessage = (event, payload) => {
      // Messages of an earlier join may still arrive while a new join is pending.
      if (!channel.isJoined()) return payload;
      if (event === "warden.resync") readAgain(topic);
      else if (event === "warden.mark") reach(topic, payload);
      else if (payload?.rows || payload?.data) held.get(topic).push([event, payload]);
      return payload;
    };
    channel.onError(() => forget(topic)); // the connection has ended: the next join sends it all again
    channel.join().receive("ok", ({ resync }) => resync && readAgain(topic));
  }

  function forget(topic) {
    ready.delete(topic);
    held.set(topic, []);
  }

  function readAgain(topic) {
    forget(topic);
    unread.add(topic);
    channels.get(topic).leave();
    join(topic);
  }

  function reach(topic, mark) {
    ready.add(topic);
    if (mark.cursor !== last) awaited = new Set(mark.topics.filter((other) => tables.has(other)));
    last = mark.cursor;
    awaited.delete(topic);
    if (awaited.size > 0 || ready.size < topics.length) return;
    for (const [topic, messages] of held) apply(topic, messages);
    topics.forEach((topic) => held.set(topic, []));
    since = mark.cursor;
    show(tables, stale);
  }

  function apply(topic, messages) {
    const [rows, old] = [tables.get(topic), stale.get(topic)];
    let former = rows;
    if (unread.delete(topic)) {
      former = new Map(rows);
      [rows, old].forEach((all) => all.clear());
    }
    const put = (row, truncated) => {
      // A truncated row lacks columns. Reading the row now could show a later state than the other rows.
      rows.set(row.id, truncated ? (rows.get(row.id) ?? former.get(row.id) ?? row) : row);
      if (truncated) old.add(row.id);
      else old.delete(row.id);
    };
    for (const [event, { rows: page, data, truncated }] of messages) {
      if (page) page.forEach((row, at) => put(row, truncated?.includes(at)));
      else if (!event.endsWith(".deleted")) put(data, truncated);
      else [rows, old].forEach((all) => all.delete(data.id));
    }
  }

  topics.forEach(join);
  return () => channels.forEach((channel) => channel.leave());
}
