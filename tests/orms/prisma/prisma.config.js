import { defineConfig } from "prisma/config";
import { CatalogAdapter } from "./catalog_adapter.js";

export default defineConfig({
  schema: "prisma/schema.prisma",
  experimental: { adapter: true },
  engine: "js",
  adapter: async () => new CatalogAdapter(process.env.DATABASE_URL),
});
