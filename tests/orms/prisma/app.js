// Checks of the adopted application: `app.js inserts` and `app.js isolation`.
import assert from "node:assert/strict";
import { PrismaPg } from "@prisma/adapter-pg";
import client from "./generated/index.js";
import { actingAs } from "./tenancy.js";

const { DATABASE_URL, ORG_A, ORG_B, USER_A, USER_B } = process.env;
const A = { sub: USER_A, app_metadata: { org_id: ORG_A } };
const B = { sub: USER_B, app_metadata: { org_id: ORG_B } };
const clients = [];

function connect(max) {
  const prisma = new client.PrismaClient({ adapter: new PrismaPg({ connectionString: DATABASE_URL, max }) });
  clients.push(prisma);
  return prisma;
}

const prisma = connect(4);

async function inserts() {
  await actingAs(prisma, A, async (tx) => {
    const project = await tx.project.create({
      data: { ownerId: USER_A, name: "new", tasks: { create: [{ number: 1, summary: "first" }] } },
      include: { tasks: true },
    });
    const projectId = project.id;
    const bulk = Array.from({ length: 100 }, (_, n) => ({ projectId, number: n + 2, summary: "bulk" }));
    assert.deepEqual(await tx.task.createMany({ data: bulk }), { count: 100 });
    const [returned] = await tx.task.createManyAndReturn({ data: [{ projectId, number: 102, summary: "returned" }] });
    assert.equal(returned.priority, 0);

    const where = { projectId_number: { projectId, number: 1 } };
    const create = { projectId, number: 1, summary: "upserted" };
    await tx.task.upsert({ where, create, update: { summary: "upserted" } });
    await tx.task.createMany({ data: [create], skipDuplicates: true });
    await tx.comment.create({ data: { taskId: returned.id, body: "a comment" } });

    assert.equal(await tx.task.count({ where: { projectId } }), 102);
    assert.equal((await tx.task.findUnique({ where })).summary, "upserted");
    for (const table of ["projects", "tasks", "comments"]) {
      const orgs = await tx.$queryRawUnsafe(`select distinct org_id from ${table}`);
      assert.deepEqual(orgs, [{ org_id: ORG_A }], table);
    }
  });
}

async function names(tx) {
  return (await tx.project.findMany()).map((project) => project.name);
}

async function isolation() {
  const ofB = await actingAs(prisma, B, (tx) => tx.project.findFirst());
  assert.equal(ofB.name, "old B");
  await actingAs(prisma, A, async (tx) => {
    const seen = await names(tx);
    assert(seen.includes("old A") && !seen.includes("old B"));
    assert.equal(await tx.project.findUnique({ where: { id: ofB.id } }), null);
    assert.deepEqual(await tx.project.updateMany({ where: { id: ofB.id }, data: { name: "mine" } }), { count: 0 });
    assert.deepEqual(await tx.task.deleteMany({ where: { projectId: ofB.id } }), { count: 0 });
  });
  const elsewhere = { projectId: ofB.id, number: 9, summary: "in another organisation" };
  await assert.rejects(actingAs(prisma, A, (tx) => tx.task.create({ data: elsewhere })));

  // One connection, so each transaction follows another one with other claims.
  const single = connect(1);
  const pid = async (tx) => (await tx.$queryRaw`select pg_backend_pid() as pid`)[0].pid;
  const [first, seen] = await actingAs(single, A, async (tx) => [await pid(tx), await names(tx)]);
  assert(seen.includes("old A"));
  assert.deepEqual([await pid(single), await names(single)], [first, []]);
  await assert.rejects(actingAs(single, A, (tx) => tx.$queryRaw`select 1 / 0`));
  assert.deepEqual([await pid(single), await names(single)], [first, []]);
  assert.deepEqual(await actingAs(single, B, names), ["old B"]);
  await assert.rejects(single.project.create({ data: { ownerId: USER_A, name: "without claims" } }));

  const requests = Array.from({ length: 100 }, async (_, n) => {
    const seen = await actingAs(prisma, n % 2 ? B : A, names);
    assert.equal(seen.includes("old B"), n % 2 === 1);
    assert.equal(seen.includes("old A"), n % 2 === 0);
  });
  await Promise.all(requests);
}

await { inserts, isolation }[process.argv[2]]();
await Promise.all(clients.map((prisma) => prisma.$disconnect()));
