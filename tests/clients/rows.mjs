// Runs `follow-rows.mjs` with the published `phoenix` package, for tests/it/phoenix. Each line on stdout is
// the list of all rows after a change, by id.
//
//   node rows.mjs '{"url": "ws://127.0.0.1:4000/socket", "authToken": "...", "topic": "items", "parameters": {}}'

import { Socket } from "phoenix";
import WebSocket from "ws"; // Node 20 has no WebSocket of its own.
import { followRows } from "./follow-rows.mjs";

const { url, authToken, topic, parameters } = JSON.parse(process.argv[2]);
const socket = new Socket(url, { transport: WebSocket, authToken });
socket.connect();
followRows(socket, topic, {
  parameters,
  changed: (rows) => {
    const sorted = [...rows.values()].sort((a, b) => a.id - b.id);
    process.stdout.write(`${JSON.stringify(sorted)}\n`);
  },
});
process.stdin.on("end", () => process.exit()).resume();
