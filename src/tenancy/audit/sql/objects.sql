-- Required objects that are missing or invalid. It calls the function behind warden.tenant_objects directly, because
-- the audit verifies that function's text. A table without org_id has only that finding, and a table that is not
-- enforced has one finding for all objects of the enforce phase: the others follow from it.
with misfits as materialized (
  -- Trees that cannot be adopted, because of a foreign member, of another tree, or of their partition key. They are
  -- findings of the rule table-kind, and the remedies of other rules would not work.
  select w.oid
  from warden.tenant_tables t
  cross join lateral (select to_regclass(format('%I.%I', t.schema_name, t.table_name))) w (oid)
  where w.oid is not null and exists (
    select from warden.tree(w.oid) m (oid)
    join pg_class c on c.oid = m.oid
    left join pg_partitioned_table k on k.partrelid = m.oid
    where c.relkind = 'f'
      or exists (select from pg_inherits i
                 where i.inhrelid = m.oid and i.inhparent not in (select x from warden.tree(w.oid) x))
      or exists (select from pg_attribute a where a.attrelid = m.oid and a.attnum = any (k.partattrs)
                   and a.attname = 'org_id' and not a.attnotnull))
), required as materialized (
  select * from warden.tenant_object_rows()
), wholes as materialized (
  select r.relation, warden.whole(r.relation) as whole from (select distinct relation from required) r
), o as materialized (
  select t.*, format('%I.%I', t.schema_name, t.table_name) as full_name, w.whole
  from required t
  join wholes w using (relation)
  join pg_class c on c.oid = t.relation and c.relkind in ('r', 'p')
  where w.whole not in (select m.oid from misfits m)
), state as (
  select relation,
    coalesce(bool_or(kind = 'column' and not is_valid), false) as lacks_column,
    coalesce(bool_or(kind = 'not_null' and is_valid), false) as is_not_null,
    coalesce(bool_or(kind = 'policy' and is_present), false) as is_enforced
  from o group by relation
), run as (
  -- A table that is adopted late is enforced at once if the database isolates organisations already.
  select case when bool_or(is_enforced) then 'warden migrate --enforce' else 'warden migrate' end as command from state
), wrong as (
  select o.*, s.is_not_null,
    o.kind = 'policy' and exists (select from pg_policy p where p.polrelid = o.relation and p.polname = o.found
                                    and not warden.is_own_policy(p.oid)) as is_foreign
  from o join state s using (relation)
  where o.applies and o.phase <> 'fill' and not o.is_valid
    and (o.kind = 'column' or not s.lacks_column)
    and (o.phase = 'expand' or s.is_enforced)
    -- What a whole lacks, its members lack too: then only the whole is reported.
    and not exists (select from o w where w.relation = o.whole and w.relation <> o.relation and w.step = o.step
                      and w.applies and not w.is_valid)
)
select case w.kind
    when 'column' then 'org-column'
    when 'index' then case when w.is_unique then 'unique-index' else 'org-index' end
    when 'unique' then 'parent-key'
    when 'foreign_key' then case w.step when 4 then 'organization-key' else 'parent-foreign-key' end
    when 'trigger' then case w.step when 7 then 'org-default' else 'immutability' end
    when 'default' then 'org-default'
    when 'not_null' then 'not-null'
    when 'policy' then 'policy'
    when 'check' then 'parent-foreign-key'
    else 'row-security' end as rule,
  null::text as severity, w.full_name as "table", coalesce(w.found, w.name)::text as object,
  case w.kind
    when 'column' then case when w.found is null then 'it has no column org_id' else 'org_id ' || w.problem end
    when 'not_null' then 'org_id may be null: nothing rejects a row without an organisation'
    when 'default' then case when w.found is null then 'org_id has no default: a statement that does not name the column fails'
                             else 'the default of org_id ' || w.problem end
    when 'row_security' then case w.name
      when 'enabled' then 'row-level security is not enabled: its policies have no effect'
      else 'row-level security is not forced: its policies do not apply to its owner' end
    else format('%s "%s" %s',
      case w.kind when 'foreign_key' then 'foreign key' when 'unique' then 'unique constraint' else w.kind end,
      coalesce(w.found, w.name), w.problem) end as cause,
  case
    when w.kind = 'policy' and w.is_foreign then 'decide'
    when w.kind in ('trigger', 'default', 'policy', 'row_security', 'check') then 'sql'
    when w.is_present and w.kind = 'column' then 'decide'
    when w.problem in ('does not cascade', 'is another index', 'is another constraint') then 'sql'
    else 'shell' end as remedy_kind,
  case
    when w.kind = 'default' or w.kind = 'trigger' and w.step = 7 then
      format('select warden.require_org_id(%L);', w.full_name)
    when w.kind = 'policy' and w.is_foreign then json_build_object(
      'question', 'does the application need this policy, which Warden did not create?',
      'choices', json_build_array(json_build_array('yes, under another name', 'sql', format(
        E'alter policy %1$I on %2$s rename to %3$I;\nselect warden.protect(%2$L);', w.found, w.full_name,
        'own_' || w.found))))::text
    when w.kind = 'trigger' then format('select warden.guard_org_id(%L);', w.full_name)
    when w.kind in ('policy', 'row_security', 'check') then format('select warden.protect(%L);', w.full_name)
    when w.is_present and w.kind = 'column' then json_build_object(
      'question', 'what does its present column org_id contain?',
      'choices', json_build_array(
        json_build_array('data of the application: Warden adds a column of its own', 'sql', format(
          E'alter table %s rename column org_id to former_org_id;\n$ %s', w.full_name, run.command)),
        case when w.problem ~ '^is (text|character|character varying)\M' then
          json_build_array('the organisation, as text', 'sql', format(
            E'alter table %s alter column org_id type uuid using org_id::uuid;\n$ %s', w.full_name, run.command)) end)
      )::text
    when w.problem = 'does not cascade' then format(
      E'alter table %s drop constraint %I;\n$ warden migrate', w.full_name, w.found)
    when w.problem = 'is another index' then format(
      E'alter index %I.%I rename to %I;\n$ warden migrate%s', w.schema_name, w.found, left('former_' || w.found, 60),
      case when w.phase = 'enforce' then ' --enforce' else '' end)
    when w.problem = 'is another constraint' then format(
      E'alter table %s rename constraint %I to %I;\n$ warden migrate%s', w.full_name, w.found,
      left('former_' || w.found, 60), case when w.phase = 'enforce' then ' --enforce' else '' end)
    when w.kind = 'column' then run.command
    when w.phase = 'expand' then 'warden migrate'
    else 'warden migrate --enforce' end as remedy
from wrong w, run
union all
select 'row-security', null, o.full_name, 'warden_require_protection',
  'no event trigger protects new partitions at once, and nothing keeps them empty until they are protected',
  'sql', format('select warden.protect_members(%L);', o.full_name)
from o
where o.kind = 'row_security' and o.name = 'forced' and o.relation = o.whole and warden.accepts_unprotected_rows(o.relation::regclass)
union all
select 'not-enforced', null, o.full_name, o.table_name,
  case when w.is_enforced then 'it was created after the enforce phase, and its rows are not isolated yet'
       else 'the database does not isolate its rows yet: run the enforce phase' end,
  case when w.is_enforced then 'sql' else 'shell' end,
  case when w.is_enforced then format('select warden.protect_members(%L);', o.full_name)
       else 'warden migrate --enforce' end
from o join state s using (relation)
-- Members follow from the whole, unless they are new.
join state w on w.relation = o.whole and (w.relation = s.relation or w.is_enforced)
where o.scope <> 'user' and o.kind = 'row_security' and o.name = 'forced' and not s.is_enforced and not s.lacks_column
union all
select 'fill-trigger', null, o.full_name, o.name,
  case
    when s.is_not_null then
      'the table is enforced, but its fill trigger still assigns organisations to rows without org_id'
    else format('the trigger that %s %s: %s',
      case o.name when 'warden_fill_org_id' then 'fills org_id'
                  when 'warden_fill_org_id_parent' then 'lets rows follow their parent'
                  else 'protects org_id while rows are filled' end,
      o.problem,
      case when o.problem like 'follows%' then 'rows can get a wrong organisation'
           else case o.name when 'warden_fill_org_id' then 'new rows have no organisation'
                       when 'warden_fill_org_id_parent' then 'a row cannot be linked to a parent of another organisation'
                       else 'a request with UPDATE can choose the organisation of a row' end end) end,
  'sql',
  format('select warden.%s(%L);', case when s.is_not_null then 'unfill_org_id' else 'fill_org_id' end, o.full_name)
from o join state s using (relation)
where o.phase = 'fill' and not s.lacks_column
  and not exists (select from o w where w.relation = o.whole and w.relation <> o.relation and w.name = o.name
                    and w.is_valid = o.is_valid)
  -- One statement mends both triggers.
  and not exists (select from o f where f.relation = o.relation and f.phase = 'fill' and f.name < o.name
                    and f.is_valid = o.is_valid)
  and case when s.is_not_null then o.is_present else not s.is_enforced and not o.is_valid end
