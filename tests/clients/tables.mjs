// Runs `follow-tables.mjs` with the published `phoenix` package, for tests/it/phoenix. Each line on stdout is
// the rows of all topics, in a state that is shown: a list for each topic, by id. Rows that were too large to
// be sent have `"stale": true`.
//
//   node tables.mjs '{"url": "ws://127.0.0.1:4000/socket", "authToken": "...", "topics": ["left", "right"]}'

import { Socket } from "phoenix";
import WebSocket from "ws"; // Node 20 has no WebSocket of its own.
import { followTables } from "./follow-tables.mjs";

const { url, authToken, topics } = JSON.parse(process.argv[2]);
const socket = new Socket(url, { transport: WebSocket, authToken, reconnectAfterMs: () => 50 });
socket.connect();
followTables(socket, topics, (tables, stale) => {
  const marked = (topic) =>
    [...tables.get(topic).values()].map((row) => (stale.get(topic).has(row.id) ? { ...row, stale: true } : row));
  const sorted = topics.map((topic) => marked(topic).sort((a, b) => a.id - b.id));
  process.stdout.write(`${JSON.stringify(sorted)}\n`);
});
process.stdin.on("end", () => process.exit()).resume();
