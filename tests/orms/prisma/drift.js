// Shows what Prisma sees of the adopted database: its migrations are applied, and the schema that `db
// pull` writes is the database's own, so Warden's objects are expressed completely as far as Prisma
// knows them. With --without-pull it compares the schema that was read before.
import { execFileSync } from "node:child_process";
import { cpSync, rmSync } from "node:fs";

const prisma = (...args) => execFileSync("node_modules/.bin/prisma", args, { stdio: "inherit" });

if (!process.argv.includes("--without-pull")) {
  prisma("migrate", "status");
  rmSync("pulled", { recursive: true, force: true });
  cpSync("prisma", "pulled/prisma", { recursive: true });
  for (const file of ["prisma.config.js", "catalog_adapter.js"]) cpSync(file, `pulled/${file}`);
  prisma("db", "pull", "--config", "pulled/prisma.config.js");
}
prisma("db", "push", "--skip-generate", "--config", "pulled/prisma.config.js");
