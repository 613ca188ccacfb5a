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

async function fetchRow(id) {
  const address = `${url.replace("ws", "http").replace("/socket", "")}/v1/${topic}/${id}`;
  for (;;) {
    const answer = await fetch(address, { headers: { authorization: `Bearer ${authToken}` } }).catch(() => null);
    if (answer?.ok) return answer.json();
    if (answer?.status === 404) return null;
    await new Promise((resolve) => setTimeout(resolve, 50)); // the gateway restarts
  }
}

followRows(socket, topic, {
  parameters,
  fetchRow,
  changed: (rows) => {
    const sorted = [...rows.values()].sort((a, b) => a.id - b.id);
    process.stdout.write(`${JSON.stringify(sorted)}\n`);
  },
});
process.stdin.on("end", () => process.exit()).resume();
