// Applies the first migration only: the state of the database before it is adopted.
import { cpSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { drizzle } from "drizzle-orm/node-postgres";
import { migrate } from "drizzle-orm/node-postgres/migrator";

const folder = join(mkdtempSync(join(tmpdir(), "drizzle-")), "migrations");
cpSync("migrations", folder, { recursive: true });
const path = join(folder, "meta/_journal.json");
const journal = JSON.parse(readFileSync(path, "utf8"));
writeFileSync(path, JSON.stringify({ ...journal, entries: journal.entries.slice(0, 1) }));

const db = drizzle(process.env.DATABASE_URL);
await migrate(db, { migrationsFolder: folder });
await db.$client.end();
