-- The one list of tables whose rows belong to an organisation. Adoption (`warden migrate`), the audit,
-- the policies and the tests all read it; nothing repeats it.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

create table warden.tenant_tables (
  schema_name   name not null default 'public',
  table_name    name not null,
  -- 'org': has org_id and is kept apart by it. 'user': stays the user's own (named here so that the
  -- audit knows that somebody decided it). 'root': organizations itself, whose id is the organisation.
  scope         text not null default 'org' check (scope in ('org', 'user', 'root')),
  -- Names the user a row belongs to: gives rows without org_id the organisation of that user.
  user_column   name,
  -- The row inherits the organisation of the row of parent_table whose parent_key is in parent_column.
  parent_schema name,
  parent_table  name,
  parent_column name,
  parent_key    name not null default 'id',
  -- Whether org_id may never change once it is set.
  is_immutable  boolean not null default false,
  -- Whether members may only read: what is written there is the backend's to decide.
  is_read_only  boolean not null default false,
  -- Whether the table's own triggers are disabled for as long as a batch of rows gets its org_id.
  pauses_triggers boolean not null default false,
  -- Who registered the table. 'core': Warden itself. 'platform': the optional migrations/platform.
  -- 'application': the operator, with warden.adopt_table().
  origin        text not null default 'application' check (origin in ('core', 'platform', 'application')),
  primary key (schema_name, table_name),
  check (scope <> 'user' or user_column is not null),
  check ((parent_schema is null) = (parent_table is null)
     and (parent_table is null) = (parent_column is null))
);

-- Indexes that queries of one organisation use, besides those that follow from the registry itself:
-- (org_id, parent_column) on a child, unique (org_id, parent_key) on a parent, and (org_id) where no other
-- index begins with it.
create table warden.tenant_indexes (
  schema_name name not null default 'public',
  table_name  name not null,
  index_name  name not null,
  -- Each 'column' or 'column desc'; the first is org_id.
  key_columns text[] not null check (key_columns[1] = 'org_id'),
  is_unique   boolean not null default false,
  primary key (schema_name, index_name),
  foreign key (schema_name, table_name) references warden.tenant_tables on delete cascade
);

-- What decides about access is the back end's to write: members may only read it.
insert into warden.tenant_tables (table_name, scope, is_read_only, origin) values
  ('organizations',        'root', true, 'core'),
  ('organization_members', 'org',  true, 'core');
insert into warden.tenant_indexes (table_name, index_name, key_columns, is_unique) values
  ('organization_members', 'idx_organization_members_org_user_id', '{org_id,user_id}', true);

reset role;
