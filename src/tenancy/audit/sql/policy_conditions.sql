-- Policies of the application whose conditions read registered tables that are not isolated yet.
select 'policy-condition' as rule, null::text as severity, null::text as "table", c.object, format(
    'its condition reads %s, and will see rows of the organisation only: EXISTS holds for fewer rows, NOT EXISTS for more',
    c.reads) as cause, 'decide' as remedy_kind,
  json_build_object('question', 'do the rows that decide belong to the organisation of the row, or to the user of the claims?',
    'choices', json_build_array(json_build_array('no', 'advice',
      'let the condition call a SECURITY DEFINER function of a role with BYPASSRLS, which names these rows')))::text as remedy
from warden.policy_conditions(array(
  select c.oid::regclass
  from warden.tenant_tables t
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name and c.relkind in ('r', 'p')
  where t.scope <> 'user'
    and not exists (select from pg_policy p where p.polrelid = c.oid and p.polname = 'warden_org' and not p.polpermissive))) c
