-- Rights that the gateway needs and the current role lacks: the role, the right, and the statement that grants it.
-- Without warden.rotate_events() the gateway serves, and retention itself reports what it lacks.
-- Names are looked up in the catalogs, because to_regclass() fails for a role that may not use the schema.
with tables (schema_name, table_name, columns) as (values
  ('warden', 'events', null::name[]), ('warden', 'topics', null), ('warden', 'entity_topics', null),
  ('warden', 'incarnations', null),
  ('warden', 'watches', '{topic,entity_topic,visibility}'),
  ('warden', 'last_rotation', '{singleton,number}'),
  ('warden', 'log_floors', '{org_id,rotation}'),
  ('warden', 'revocations',
   '{id,session_id,user_id,org_id,issuer,revoked_at,expires_at,suspended,created_by,requested_by,xid}'),
  ('public', 'organizations', '{id}')
), functions (name) as (
  select unnest('{epoch,begin_epoch,is_truncated,is_truncated_for_any,truncation_reason,truncated_since,'
                'forget_revocations,merge_revocations,revoke_within,publish_within,forget_idempotency_keys,'
                'reading,reading_version,unfit_watches,load_cursor_keys,load_transaction_key}'::name[])
), missing (n, privilege, object) as (
  select 1, 'usage', format('schema %I', n.nspname)
  from pg_namespace n where n.nspname in ('warden', 'public') and not has_schema_privilege(n.oid, 'usage')
  union all
  select 2, 'select' || coalesce(' (' || string_agg(quote_ident(a.attname), ', ' order by a.attnum)
                                filter (where t.columns is not null) || ')', ''),
    format('%I.%I', t.schema_name, t.table_name)
  from tables t
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    and (t.columns is null or a.attname = any (t.columns))
  where not has_column_privilege(c.oid, a.attnum, 'select')
  group by t.schema_name, t.table_name
  union all
  select 3, 'execute', format('function %I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
  from functions f
  join pg_namespace n on n.nspname = 'warden'
  join pg_proc p on p.pronamespace = n.oid and p.proname = f.name
  where not has_function_privilege(p.oid, 'execute')
)
select quote_ident(current_user) as role, format('%s on %s', privilege, object) as "right",
  format('grant %s on %s to %I;', privilege, object, current_user) as statement
from missing
order by n, object
