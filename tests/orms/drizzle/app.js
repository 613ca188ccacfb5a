// Checks of the adopted application: `app.js inserts` and `app.js isolation`.
import assert from "node:assert/strict";
import { and, eq, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import pg from "pg";
import { comments, projects, tasks } from "./schema.js";
import { actingAs } from "./tenancy.js";

const { DATABASE_URL, ORG_A, ORG_B, USER_A, USER_B } = process.env;
const A = { sub: USER_A, app_metadata: { org_id: ORG_A } };
const B = { sub: USER_B, app_metadata: { org_id: ORG_B } };
const pools = [];

function connect(max) {
  const pool = new pg.Pool({ connectionString: DATABASE_URL, max });
  pools.push(pool);
  return drizzle(pool);
}

const db = connect(4);

async function inserts() {
  await actingAs(db, A, async (tx) => {
    const [project] = await tx.insert(projects).values({ ownerId: USER_A, name: "new" }).returning();
    const bulk = Array.from({ length: 100 }, (_, n) => ({ projectId: project.id, number: n + 1, summary: "bulk" }));
    const rows = await tx.insert(tasks).values(bulk).returning({ id: tasks.id, priority: tasks.priority });
    assert.equal(rows.length, 100);
    assert.equal(rows[0].priority, 0);

    const row = { projectId: project.id, number: 1, summary: "upserted" };
    const target = [tasks.projectId, tasks.number];
    await tx.insert(tasks).values(row).onConflictDoUpdate({ target, set: { summary: "upserted" } });
    await tx.insert(tasks).values(row).onConflictDoNothing();
    await tx.insert(comments).values({ taskId: rows[0].id, body: "a comment" });

    assert.equal(await tx.$count(tasks, eq(tasks.projectId, project.id)), 100);
    assert.equal(await tx.$count(tasks, and(eq(tasks.projectId, project.id), eq(tasks.summary, "upserted"))), 1);
    for (const table of ["projects", "tasks", "comments"]) {
      const { rows: orgs } = await tx.execute(sql.raw(`select distinct org_id from ${table}`));
      assert.deepEqual(orgs, [{ org_id: ORG_A }], table);
    }
  });
}

async function names(tx) {
  return (await tx.select({ name: projects.name }).from(projects)).map((row) => row.name);
}

async function isolation() {
  const [ofB] = await actingAs(db, B, (tx) => tx.select().from(projects));
  assert.equal(ofB.name, "old B");
  await actingAs(db, A, async (tx) => {
    const seen = await names(tx);
    assert(seen.includes("old A") && !seen.includes("old B"));
    assert.deepEqual(await tx.update(projects).set({ name: "mine" }).where(eq(projects.id, ofB.id)).returning(), []);
    assert.deepEqual(await tx.delete(tasks).where(eq(tasks.projectId, ofB.id)).returning(), []);
  });
  const elsewhere = { projectId: ofB.id, number: 9, summary: "in another organisation" };
  await assert.rejects(actingAs(db, A, (tx) => tx.insert(tasks).values(elsewhere)));

  // One connection, so each transaction follows another one with other claims.
  const single = connect(1);
  const pid = async (tx) => (await tx.execute(sql`select pg_backend_pid() as pid`)).rows[0].pid;
  const [first, seen] = await actingAs(single, A, async (tx) => [await pid(tx), await names(tx)]);
  assert(seen.includes("old A"));
  assert.deepEqual([await pid(single), await names(single)], [first, []]);
  await assert.rejects(actingAs(single, A, (tx) => tx.execute(sql`select 1 / 0`)));
  assert.deepEqual([await pid(single), await names(single)], [first, []]);
  assert.deepEqual(await actingAs(single, B, names), ["old B"]);
  await assert.rejects(single.insert(projects).values({ ownerId: USER_A, name: "without claims" }));

  const requests = Array.from({ length: 100 }, async (_, n) => {
    const seen = await actingAs(db, n % 2 ? B : A, names);
    assert.equal(seen.includes("old B"), n % 2 === 1);
    assert.equal(seen.includes("old A"), n % 2 === 0);
  });
  await Promise.all(requests);
}

await { inserts, isolation }[process.argv[2]]();
await Promise.all(pools.map((pool) => pool.end()));
