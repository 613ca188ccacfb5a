-- The registry of tables whose rows belong to an organisation. Adoption (`warden migrate`), the audit, the policies and
-- the tests all read it, and none of them has a list of its own.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

create table if not exists warden.tenant_tables (
  schema_name   name not null default 'public',
  table_name    name not null,
  -- 'org': rows belong to the organisation in org_id. 'user': rows belong to a user; the entry tells the audit that an
  -- operator decided so. 'root': organizations itself, whose id is the organisation.
  scope         text not null default 'org' check (scope in ('org', 'user', 'root')),
  -- Column with the user of a row. A row without org_id gets the organisation of that user.
  user_column   name,
  -- A row inherits the organisation of the parent row whose parent_key equals its parent_column.
  parent_schema name,
  parent_table  name,
  parent_column name,
  parent_key    name not null default 'id',
  -- Whether a row without org_id belongs to the default organisation if neither its parent nor its user says where it
  -- belongs. Without a parent and a user column it holds for all rows, whatever their foreign keys say. The operator
  -- chose it, with organization=default. The platform's tables need no choice.
  uses_default_organization boolean not null default false,
  -- Whether a row belongs there after all foreign keys: the operator chose --default-organization.
  fills_rest_with_default boolean not null default false,
  -- Whether org_id can never change once it is set.
  is_immutable  boolean not null default false,
  -- Whether members may only read. Back ends write these tables.
  is_read_only  boolean not null default false,
  -- Whether the worker of recordings uses the table: see warden.enable_recordings().
  has_worker    boolean not null default false,
  -- Whether the backfill disables the table's own triggers for each batch.
  pauses_triggers boolean not null default false,
  -- Who registered the table. 'core': Warden itself. 'platform': the optional migrations/platform.
  -- 'application': the operator, with warden.adopt_table().
  origin        text not null default 'application' check (origin in ('core', 'platform', 'application')),
  primary key (schema_name, table_name),
  check (scope <> 'user' or user_column is not null),
  check ((parent_schema is null) = (parent_table is null)
     and (parent_table is null) = (parent_column is null))
);
alter table warden.tenant_tables add column if not exists uses_default_organization boolean not null default false;
alter table warden.tenant_tables add column if not exists fills_rest_with_default boolean not null default false;
alter table warden.tenant_tables add column if not exists has_worker boolean not null default false;

-- Numbers of the columns that an entry names: of the user, of the parent in this table, of the key in the parent. They
-- tell which column of the registry a statement renames.
-- PostgreSQL's own numbers of columns have this type.
-- squawk-ignore prefer-bigint-over-smallint
alter table warden.tenant_tables add column if not exists column_numbers smallint[] not null default '{}';

create or replace function warden.number_columns() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  new.column_numbers := array(
    -- A name that no column has keeps its number: the column is being renamed, or was dropped.
    select coalesce((select a.attnum from pg_catalog.pg_attribute a
                     join pg_catalog.pg_class c on c.oid = a.attrelid
                     join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                     where (n.nspname, c.relname, a.attname) = (v.schema_name, v.table_name, v.column_name)
                       and a.attnum > 0), new.column_numbers[v.n], 0)
    from (values (1, new.schema_name, new.table_name, new.user_column),
                 (2, new.schema_name, new.table_name, new.parent_column),
                 (3, new.parent_schema, new.parent_table, new.parent_key)) v (n, schema_name, table_name, column_name)
    order by v.n);
  return new;
end
$$;
revoke execute on function warden.number_columns() from public;
create or replace trigger number_columns before insert or update on warden.tenant_tables
  for each row execute function warden.number_columns();

-- The tables of the optional platform, and their indexes. Empty until an operator chooses the platform.
create table if not exists warden.platform_tables (
  table_name      name    primary key,
  scope           text    not null,
  user_column     name,
  parent_table    name,
  parent_column   name,
  is_immutable    boolean not null,
  is_read_only    boolean not null,
  pauses_triggers boolean not null,
  -- The table that was registered. If it is dropped, a later table of that name is another one: nobody chose it. If an
  -- operator removes it from the registry, it stays out.
  adopted_table   regclass
);
create table if not exists warden.platform_indexes (
  table_name  name    not null,
  index_name  name    primary key,
  key_columns text[]  not null,
  is_unique   boolean not null
);

-- Indexes for frequent queries within one organisation. Others follow from the registry and are not listed:
-- (org_id, parent_column) on a child, unique (org_id, parent_key) on a parent, and (org_id) if no other index starts
-- with it.
create table if not exists warden.tenant_indexes (
  schema_name name not null default 'public',
  table_name  name not null,
  index_name  name not null,
  -- Each element is 'column' or 'column desc'. The first one is org_id.
  key_columns text[] not null check (key_columns[1] = 'org_id'),
  is_unique   boolean not null default false,
  primary key (schema_name, index_name),
  foreign key (schema_name, table_name) references warden.tenant_tables on delete cascade
);

-- Memberships decide about access, so members may only read them; back ends write them.
insert into warden.tenant_tables (table_name, scope, is_read_only, origin) values
  ('organizations',        'root', true, 'core'),
  ('organization_members', 'org',  true, 'core')
on conflict do nothing;
insert into warden.tenant_indexes (table_name, index_name, key_columns, is_unique) values
  ('organization_members', 'idx_organization_members_org_user_id', '{org_id,user_id}', true)
on conflict do nothing;

reset role;
