// The schema engine of Prisma 6 in WebAssembly reads PostgreSQL's catalogs through this adapter. The
// published adapter lacks the types "char" and name, which only catalogs have.
import { PrismaPg } from "@prisma/adapter-pg";
import pg from "pg";

const CHAR = 18;
const [TEXT, CHAR_ARRAY, TEXT_ARRAY] = [25, 1002, 1009];
// PostgreSQL's type of a column, and the type that the adapter receives. No catalog is queried for "char"[],
// so that type stands for "char" until the columns' types are returned.
const TYPES = new Map([[CHAR, CHAR_ARRAY], [19, TEXT], [CHAR_ARRAY, TEXT_ARRAY], [1003, TEXT_ARRAY]]);
const [CHARACTER, CHARACTER_ARRAY] = [6, 70];

class CatalogPool extends pg.Pool {
  async query(...args) {
    const result = await super.query(...args);
    for (const field of result.fields ?? []) field.dataTypeID = TYPES.get(field.dataTypeID) ?? field.dataTypeID;
    return result;
  }
}

export class CatalogAdapter extends PrismaPg {
  constructor(connectionString) {
    super(new CatalogPool({ connectionString }));
  }

  async connect() {
    const adapter = await super.connect();
    const queryRaw = adapter.queryRaw.bind(adapter);
    adapter.queryRaw = async (query) => {
      const result = await queryRaw(query);
      return { ...result, columnTypes: result.columnTypes.map((type) => (type === CHARACTER_ARRAY ? CHARACTER : type)) };
    };
    return adapter;
  }
}
