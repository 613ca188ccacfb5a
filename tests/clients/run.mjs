// Runs published clients against a real gateway and prints what works with each.
//
//   make clients                           installs and runs all of them
//   node tests/clients/run.mjs phoenix     runs only these
//
// The exit code is 1 if a client cannot do something that the list below expects of it, or can do more.
//
// Each client is a program of its own. It gets the environment variables URL (ws://.../socket), TOKEN and
// TOPIC, and writes one word per line to its standard output:
//   joined CURSOR     a join was answered
//   event N           an event of the topic with the data {"n": N} arrived
//   heartbeat         a heartbeat was answered
//   refreshed         the gateway accepted the fresh token
//   left              the gateway answered that the topic was left
//   error TEXT        something failed
// On its standard input it gets `refresh TOKEN`, which asks it to send this token, and `leave`.
//
// Between client and gateway is a proxy, which cuts the connection once. An event is published before the
// client can reconnect: it arrives only if the client joins again with the cursor of its last event.

import { execFileSync, spawn } from "node:child_process";
import { createHmac, randomUUID } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import net from "node:net";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "../..");
const installed = join(root, "target/clients");
const python = join(installed, "python/bin/python");

/** Longest wait for one line of a client, in milliseconds. */
const WAIT_MS = 20_000;
/** The same for a line that this client is not expected to write. */
const ABSENT_WAIT_MS = 2_000;

const STEPS = ["connect", "receive", "heartbeat", "refresh", "reconnect", "cursor", "leave"];

const clients = [
  { name: "phoenix", command: ["node", join(here, "javascript/phoenix.mjs")] },
  { name: "realtime-js", command: ["node", join(here, "javascript/realtime-js.mjs")] },
  { name: "phoenix-channels", command: ["node", join(here, "javascript/phoenix-channels.mjs")] },
  {
    name: "phoenix-channels-python-client",
    needs: python,
    command: [python, join(here, "python/phoenix_channels.py")],
    lacks: ["receive", "refresh", "cursor"],
  },
  {
    name: "JavaPhoenixClient",
    needs: join(installed, "java/client.jar"),
    command: ["java", "-cp", `${join(installed, "java/client.jar")}:${join(installed, "java/lib")}/*`, "Client"],
  },
];

/** Starts `warden dev`. Resolves with its line of JSON. */
function startGateway() {
  const warden = spawn(
    process.env.WARDEN_BIN ?? join(root, "target/debug/warden"),
    ["dev", "--ephemeral", "--json", "--rate=0", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  let log = "";
  warden.stderr.on("data", (chunk) => (log += chunk));
  return new Promise((resolve, reject) => {
    warden.on("exit", (code) => reject(new Error(`warden dev ended with ${code}:\n${log}`)));
    createInterface({ input: warden.stdout }).once("line", (line) => {
      warden.removeAllListeners("exit");
      const stop = () => new Promise((stopped) => warden.on("exit", stopped).kill("SIGINT"));
      resolve({ ...JSON.parse(line), stop, log: () => log });
    });
  });
}

/** A proxy in front of the gateway, whose connections can be cut. */
async function startProxy(target) {
  const open = new Set();
  let refuses = false;
  const server = net.createServer((client) => {
    if (refuses) return client.destroy();
    const upstream = net.connect(target.port, target.hostname);
    for (const [from, to] of [[client, upstream], [upstream, client]]) {
      from.pipe(to);
      from.on("error", () => to.destroy()).on("close", () => to.destroy());
    }
    open.add(client);
    client.on("close", () => open.delete(client));
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return {
    url: `ws://127.0.0.1:${server.address().port}/socket`,
    cut: () => {
      refuses = true;
      for (const client of open) client.destroy();
    },
    restore: () => (refuses = false),
    close: () => server.close(),
  };
}

function signToken(gateway, org, sub, extra = {}) {
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const claims = { sub, aud: "authenticated", exp, app_metadata: { org_id: org }, ...extra };
  const message = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${message}.${createHmac("sha256", gateway.jwt_secret).update(message).digest("base64url")}`;
}

/** Runs a client's program. Its lines are read with `next`. */
function startClient(client, env) {
  const [program, ...args] = client.command;
  const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: ["pipe", "pipe", "pipe"] });
  const lines = [];
  let log = "";
  let wake = () => {};
  child.stderr.on("data", (chunk) => (log += chunk));
  child.on("error", (error) => (log += error));
  createInterface({ input: child.stdout }).on("line", (line) => {
    log += `${line}\n`;
    lines.push(line.split(" "));
    wake();
  });
  return {
    log: () => log,
    send: (line) => child.stdin.write(`${line}\n`),
    stop: () => child.kill("SIGKILL"),
    events: () => lines.filter(([word]) => word === "event").map(([, n]) => Number(n)),
    /** Waits for the `count`-th line with this word and, if given, this value. */
    async next(word, { value, count = 1, wait = WAIT_MS } = {}) {
      const deadline = Date.now() + wait;
      for (;;) {
        const found = lines.filter((line) => line[0] === word && (value === undefined || line[1] === value));
        if (found.length >= count) return true;
        const left = deadline - Date.now();
        if (left <= 0 || child.exitCode !== null) return false;
        await new Promise((resolve) => {
          wake = resolve;
          setTimeout(resolve, Math.min(left, 200));
        });
      }
    },
  };
}

/** Takes one client through all steps. Returns the ones that worked. */
async function run(client, gateway) {
  const waitFor = (step) => (client.lacks?.includes(step) ? ABSENT_WAIT_MS : WAIT_MS);
  const org = gateway.orgs[0].id;
  const sub = randomUUID();
  const topic = `client_${clients.indexOf(client)}`;
  const sql = (text) => execFileSync("psql", ["-qXAt", "-v", "ON_ERROR_STOP=1", "-c", text, gateway.database_url]);
  const publish = (n) => sql(`select warden.publish('${org}', '${topic}', 'test.event', '{"n": ${n}}')`);
  sql(`select warden.declare_topic('${topic}')`);
  const proxy = await startProxy(new URL(gateway.url));
  const program = startClient(client, { URL: proxy.url, TOKEN: signToken(gateway, org, sub), TOPIC: topic });
  const works = {};
  try {
    works.connect = await program.next("joined");
    if (!works.connect) return { works, log: program.log() };
    publish(1);
    works.receive = await program.next("event", { value: "1", wait: waitFor("receive") });
    works.heartbeat = await program.next("heartbeat", { wait: waitFor("heartbeat") });
    program.send(`refresh ${signToken(gateway, org, sub, { role: "fresh" })}`);
    works.refresh = await program.next("refreshed", { wait: waitFor("refresh") });
    proxy.cut();
    publish(2);
    proxy.restore();
    works.reconnect = await program.next("joined", { count: 2 });
    publish(3);
    const hasLast = await program.next("event", { value: "3", wait: waitFor("cursor") });
    works.cursor = works.reconnect && hasLast && program.events().join() === "1,2,3";
    program.send("leave");
    works.leave = await program.next("left", { wait: waitFor("leave") });
    return { works, log: program.log() };
  } finally {
    program.stop();
    proxy.close();
  }
}

const wanted = process.argv.slice(2);
const selected = clients.filter(({ name }) => wanted.length === 0 || wanted.includes(name));
const gateway = await startGateway();
let failed = false;
try {
  console.log(`| client | ${STEPS.join(" | ")} |\n|---|${STEPS.map(() => "---|").join("")}`);
  for (const client of selected) {
    if (client.needs && !existsSync(client.needs)) {
      console.log(`| ${client.name} | is not installed: run scripts/setup clients |`);
      failed = true;
      continue;
    }
    const { works, log } = await run(client, gateway);
    console.log(`| ${client.name} | ${STEPS.map((step) => (works[step] ? "yes" : "no")).join(" | ")} |`);
    if (STEPS.some((step) => Boolean(works[step]) === Boolean(client.lacks?.includes(step)))) {
      failed = true;
      console.error(log);
    }
  }
} finally {
  await gateway.stop();
}
process.exitCode = failed ? 1 : 0;
