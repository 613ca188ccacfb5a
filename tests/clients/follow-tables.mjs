// Shows the rows of several tables together, only in states that the database had. `show(tables)` gets a map
// of rows by id for each topic. All topics must be on one socket. Returns a function that ends it.
export function followTables(socket, topics, show) {
  const tables = new Map(topics.map((topic) => [topic, new Map()])); // the rows that are shown
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
    for (const [followed, rows] of tables) {
      if (unread.delete(followed)) rows.clear();
      for (const [event, { rows: page, data }] of held.get(followed)) {
        if (page) page.forEach((row) => rows.set(row.id, row));
        else if (event.endsWith(".deleted")) rows.delete(data.id);
        else rows.set(data.id, data);
      }
      held.set(followed, []);
    }
    since = mark.cursor;
    show(tables);
  }

  topics.forEach(join);
  return () => channels.forEach((channel) => channel.leave());
}
