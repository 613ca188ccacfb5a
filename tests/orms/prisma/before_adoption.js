// Generates the client, and applies the first migration only: the state of the database before it is adopted.
import { execFileSync } from "node:child_process";
import { cpSync, rmSync } from "node:fs";

const prisma = (args) => execFileSync("node_modules/.bin/prisma", args, { stdio: "inherit" });

prisma(["generate"]);
rmSync("before", { recursive: true, force: true });
cpSync("prisma", "before/prisma", { recursive: true });
rmSync("before/prisma/migrations/0002_comments", { recursive: true });
for (const file of ["prisma.config.js", "catalog_adapter.js"]) cpSync(file, `before/${file}`);
prisma(["migrate", "deploy", "--config", "before/prisma.config.js"]);
