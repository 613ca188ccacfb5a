-- Jobs of recordings: the tables that the worker uses, and which organisations have due work. Each job runs in a
-- transaction that is bound to its organisation, as warden_worker, so row-level security limits it. No function here
-- returns a row of an organisation.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- The tables of the worker, one row. Columns that have other names than the platform's are mapped:
-- {"recordings": {"storage_path": "file_key"}, "queue": {...}, "calls": {...}}.
create table if not exists warden.recording_tables (
  is_only    boolean  primary key default true check (is_only),
  recordings regclass not null,
  queue      regclass not null,
  -- Without this table no call counts its recordings.
  calls      regclass,
  columns    jsonb    not null default '{}'
);

-- When work of an organisation becomes due. Any transaction that writes to the queue adds a row and waits for no other
-- one. The worker deletes due rows in the transaction that claims the work. So a row may be superfluous, and none is
-- missing. A foreign key to organizations would make writers of one organisation wait for each other's locks.
create table if not exists warden.recording_wakes (
  org_id uuid        not null,
  due_at timestamptz not null
);
create index if not exists recording_wakes_due_at on warden.recording_wakes (due_at, org_id);
create index if not exists recording_wakes_org_id on warden.recording_wakes (org_id, due_at);

-- The columns that the worker needs in its tables, by the name that a mapping uses. An optional one may be missing.
create or replace function warden.recording_columns()
returns table (kind text, name text, type regtype, is_optional boolean)
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
  select v.kind, v.name, v.type::pg_catalog.regtype, v.is_optional
  from (values
    ('recordings', 'id', 'uuid', false), ('recordings', 'call_id', 'uuid', true),
    ('recordings', 'status', 'text', false), ('recordings', 'storage_path', 'text', false),
    ('recordings', 'size_bytes', 'bigint', true), ('recordings', 'content_type', 'text', true),
    ('recordings', 'sha256', 'text', true), ('recordings', 'twilio_recording_sid', 'text', true),
    ('recordings', 'duration_seconds', 'integer', true), ('recordings', 'channels', 'smallint', true),
    ('recordings', 'updated_at', 'timestamptz', true),
    ('queue', 'id', 'uuid', false), ('queue', 'recording_id', 'uuid', false),
    ('queue', 'provider', 'text', true), ('queue', 'account', 'text', true),
    ('queue', 'source_url', 'text', false), ('queue', 'state', 'text', false),
    ('queue', 'attempts', 'integer', false), ('queue', 'next_attempt_at', 'timestamptz', false),
    ('queue', 'locked_by', 'text', false), ('queue', 'locked_until', 'timestamptz', false),
    ('queue', 'last_error', 'text', false), ('queue', 'storage_key', 'text', true),
    ('queue', 'created_at', 'timestamptz', true), ('queue', 'updated_at', 'timestamptz', true),
    ('calls', 'id', 'uuid', false), ('calls', 'recording_count', 'integer', false),
    ('calls', 'updated_at', 'timestamptz', true)
  ) v (kind, name, type, is_optional)
$$;

-- The worker's columns as the tables have them: `actual` is the name in the table, null if the column is missing.
create or replace function warden.mapped_recording_columns(
  recordings regclass, queue regclass, calls regclass, columns jsonb
) returns table (kind text, name text, relation regclass, actual name, actual_type regtype, type regtype, is_optional boolean)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select c.kind, c.name, t.relation, a.attname, a.atttypid::regtype, c.type, c.is_optional
  from warden.recording_columns() c
  join (values ('recordings', recordings), ('queue', queue), ('calls', calls)) t (kind, relation)
    on t.kind = c.kind and t.relation is not null
  left join pg_catalog.pg_attribute a
    on a.attrelid = t.relation and a.attname = coalesce(columns #>> array[c.kind, c.name], c.name)
       and a.attnum > 0 and not a.attisdropped
$$;

-- Notes when work of an organisation is due. tg_argv: the columns state, next_attempt_at and locked_until. Columns that
-- were renamed since make the work due at once, because no write of the application may fail here.
create or replace function warden.wake_worker() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into warden.recording_wakes (org_id, due_at)
  select (r.row ->> 'org_id')::uuid,
         min(coalesce((r.row ->> (case r.row ->> tg_argv[0] when 'uploading' then tg_argv[2] else tg_argv[1] end))::timestamptz,
                      pg_catalog.now()))
  from (select pg_catalog.to_jsonb(n) as row from new_rows n) r
  where r.row ->> 'org_id' is not null
    and coalesce(r.row ->> tg_argv[0], 'pending') in ('pending', 'uploading')
  group by 1;
  return null;
end
$$;

-- Names the tables of the worker. The caller owns them, and each is a registered table of organisations. Call it again
-- to change a table or the mapping.
create or replace function warden.enable_recordings(
  recordings regclass, queue regclass, calls regclass default null, columns jsonb default '{}'
) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $fn$
declare
  tables constant regclass[] := array_remove(array[recordings, queue, calls], null);
  relation regclass;
  missing text;
begin
  foreach relation in array tables loop
    if (select r.scope from warden.registered(relation) r) <> 'org' then
      raise exception '% is not a table of organisations', relation using errcode = '22023';
    end if;
    if (select c.relkind <> 'r' from pg_catalog.pg_class c where c.oid = relation) then
      raise exception '% is not an ordinary table: the worker supports no partitioned ones', relation
        using errcode = '0A000';
    end if;
  end loop;
  select pg_catalog.string_agg(
    case when m.actual is null then pg_catalog.format('%s: a column for "%s" (%s)', m.relation, m.name, m.type)
         else pg_catalog.format('%s.%I: type %s instead of %s', m.relation, m.actual, m.actual_type, m.type) end,
    '; ' order by m.kind, m.name) into missing
  from warden.mapped_recording_columns(recordings, queue, calls, columns) m
  where m.actual is null and not m.is_optional
     or m.actual_type <> m.type and not (m.type = 'text'::regtype and m.actual_type = 'varchar'::regtype);
  if missing is not null then
    raise exception 'the worker lacks columns: %', missing
      using errcode = '42703',
            hint = 'Add them, or map columns of other names: columns => ''{"recordings": {"storage_path": "file_key"}}''.';
  end if;
  for relation in
    select pg_catalog.to_regclass(pg_catalog.format('%I.%I', t.schema_name, t.table_name))
    from warden.tenant_tables t where t.has_worker
  loop
    continue when relation is null or relation = any (tables);
    execute pg_catalog.format('revoke all on %s from warden_worker', relation);
    execute pg_catalog.format('drop trigger if exists warden_wake_worker_insert on %s', relation);
    execute pg_catalog.format('drop trigger if exists warden_wake_worker_update on %s', relation);
  end loop;
  update warden.tenant_tables t set has_worker = u.is_used
  from (select x.schema_name, x.table_name,
               coalesce(pg_catalog.to_regclass(pg_catalog.format('%I.%I', x.schema_name, x.table_name)) = any (tables), false)
        from warden.tenant_tables x) u (schema_name, table_name, is_used)
  where (t.schema_name, t.table_name) = (u.schema_name, u.table_name) and t.has_worker <> u.is_used;
  insert into warden.recording_tables as x (recordings, queue, calls, columns)
  values (enable_recordings.recordings, enable_recordings.queue, enable_recordings.calls, enable_recordings.columns)
  on conflict on constraint recording_tables_pkey do update
    set recordings = excluded.recordings, queue = excluded.queue, calls = excluded.calls, columns = excluded.columns;
  foreach relation in array tables loop
    execute pg_catalog.format('grant usage on schema %I to warden_worker',
      (select n.nspname from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
       where c.oid = relation));
    execute pg_catalog.format('grant select, update on %s to warden_worker', relation);
    if exists (select from pg_catalog.pg_policy p where p.polrelid = relation and p.polname = 'warden_org') then
      perform warden.protect(relation);
    end if;
  end loop;
  execute pg_catalog.format('grant insert on %s, %s to warden_worker', recordings, queue);
  execute pg_catalog.format('grant delete on %s to warden_worker', queue);
  perform warden.create_worker_triggers(queue, columns -> 'queue');
  -- Rows that were queued before.
  insert into warden.recording_wakes (org_id, due_at) select o.id, pg_catalog.now() from public.organizations o;
end
$fn$;

create or replace function warden.create_worker_triggers(queue regclass, columns jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  action text;
begin
  foreach action in array array['insert', 'update'] loop
    execute pg_catalog.format('drop trigger if exists warden_wake_worker_%s on %s', action, queue);
    execute pg_catalog.format(
      'create trigger warden_wake_worker_%1$s after %1$s on %2$s referencing new table as new_rows '
      'for each statement execute function warden.wake_worker(%3$L, %4$L, %5$L)', action, queue,
      coalesce(columns ->> 'state', 'state'), coalesce(columns ->> 'next_attempt_at', 'next_attempt_at'),
      coalesce(columns ->> 'locked_until', 'locked_until'));
  end loop;
end
$$;

-- Organisations with due work, those that have waited longest first.
create or replace function warden.due_recording_organizations(organizations_max int) returns setof uuid
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select w.org_id from warden.recording_wakes w where w.due_at <= pg_catalog.now()
  group by w.org_id order by min(w.due_at), w.org_id limit organizations_max
$$;

-- Ids of organisations in their order, for jobs that visit all.
create or replace function warden.recording_organizations(after uuid, organizations_max int) returns setof uuid
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select o.id from public.organizations o
  where after is null or o.id > after order by o.id limit organizations_max
$$;

-- Forgets the due wakes of the organisation to which the transaction is bound. Statements after it see the work that
-- the wakes stood for.
create or replace function warden.take_recording_wakes() returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  taken bigint;
begin
  -- Another worker may be taking some.
  delete from warden.recording_wakes w where w.ctid = any (array(
    select x.ctid from warden.recording_wakes x
    where x.org_id = (select warden.auth_org_id()) and x.due_at <= pg_catalog.now()
    for update skip locked));
  get diagnostics taken = row_count;
  return taken;
end
$$;

-- Notes that work of the organisation to which the transaction is bound is due at a time.
create or replace function warden.add_recording_wake(due_at timestamptz) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  insert into warden.recording_wakes (org_id, due_at)
  select warden.auth_org_id(), due_at where warden.auth_org_id() is not null
$$;

-- The worker's tables, with the names of their columns: {"queue": {"relation": "public.queue", "columns": {...}}, ...}.
-- `is_isolated` says whether row-level security limits the worker to an organisation.
create or replace function warden.recording_schema() returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.jsonb_object_agg(k.kind, pg_catalog.jsonb_build_object(
    'relation', k.relation::text, 'columns', k.columns, 'is_isolated', coalesce(
      (select c.relrowsecurity and c.relforcerowsecurity from pg_catalog.pg_class c where c.oid = k.relation)
      and exists (select from pg_catalog.pg_policy p
                  where p.polrelid = k.relation and p.polname = 'warden_org' and not p.polpermissive), false)))
  from (
    select m.kind, m.relation,
           pg_catalog.jsonb_object_agg(m.name, m.actual) filter (where m.actual is not null) as columns
    from warden.recording_tables t
    cross join lateral warden.mapped_recording_columns(t.recordings, t.queue, t.calls, t.columns) m
    group by m.kind, m.relation) k
$$;

grant execute on function warden.due_recording_organizations(int),
  warden.recording_organizations(uuid, int), warden.take_recording_wakes(),
  warden.add_recording_wake(timestamptz), warden.recording_schema() to warden_worker;
reset role;
