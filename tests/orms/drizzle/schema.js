// The application's tables. No table mentions org_id.
import { bigint, index, integer, pgTable, text, timestamp, unique, uuid } from "drizzle-orm/pg-core";

export const projects = pgTable("projects", {
  id: uuid().primaryKey().defaultRandom(),
  ownerId: uuid("owner_id").notNull(),
  name: text().notNull(),
  createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
});

export const tasks = pgTable(
  "tasks",
  {
    id: bigint({ mode: "number" }).primaryKey().generatedAlwaysAsIdentity(),
    projectId: uuid("project_id").notNull().references(() => projects.id, { onDelete: "cascade" }),
    number: integer().notNull(),
    // Called "title" before the second migration.
    summary: text().notNull(),
    priority: integer().notNull().default(0),
  },
  (t) => [unique().on(t.projectId, t.number), index().on(t.projectId)],
);

export const comments = pgTable("comments", {
  id: bigint({ mode: "number" }).primaryKey().generatedAlwaysAsIdentity(),
  taskId: bigint("task_id", { mode: "number" }).notNull().references(() => tasks.id, { onDelete: "cascade" }),
  body: text().notNull(),
});
