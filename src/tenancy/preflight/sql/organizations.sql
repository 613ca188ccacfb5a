-- The application's own organizations and organization_members. Columns: table, whether it is the application's,
-- whether Warden used it before, why it does not fit, and the remedy.
select t.name as "table", not coalesce(obj_description(c.oid, 'pg_class') like '%(created by Warden)', false) as is_foreign,
  case
    when not pg_has_role(c.relowner, 'usage') then
      format('belongs to %s, and %s is not a member of that role', c.relowner::regrole, current_user)
    else (
      select string_agg(case when a.attname is null then format('has no column "%s"', k.name)
                  when a.attgenerated = 'v' then format('has a virtual column "%s", which no key can use: let it be stored', k.name)
                  else format('has a column "%s" of type %s, and must be uuid', k.name, format_type(a.atttypid, a.atttypmod)) end,
                  ', ' order by k.name)
      from unnest(t.columns) k (name)
      left join pg_attribute a on a.attrelid = c.oid and a.attname = k.name and not a.attisdropped
      where a.atttypid is distinct from 'uuid'::regtype or a.attgenerated = 'v')
    end as misfit,
  case when not pg_has_role(c.relowner, 'usage') then
    -- A superuser's role is granted to nobody.
    case when (select rolsuper from pg_roles r where r.oid = c.relowner)
      then format('Use the role %s, or as a superuser: alter table public.%I owner to %I;', c.relowner::regrole, t.name,
                  current_user)
      else format('As a superuser: grant %I to %I;', pg_get_userbyid(c.relowner), current_user) end
  when g.statements is not null then format(
    E'Let it have what Warden needs as a column that PostgreSQL computes (the table is rewritten under a lock, and the '
    'application''s statements remain as they are):\n%s', g.statements)
  else 'Warden needs organizations (id uuid, unique) and organization_members (org_id uuid, user_id uuid). Add these '
       'columns, and let the application or a trigger fill them. If that is impossible, rename the table together with the '
       'statements of the application that use it: Warden then creates its own.' end as remedy,
  t.name = 'organizations' and not exists (
    select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
    where i.indrelid = c.oid and a.attname = 'id' and i.indisunique and i.indisvalid and i.indimmediate
      and i.indnkeyatts = 1 and i.indpred is null) as is_not_unique,
  case when t.name = 'organizations' then d.columns end as required_columns, d.statement as insertion
from (values ('organizations', array['id']), ('organization_members', array['org_id', 'user_id'])) t (name, columns)
join pg_class c on c.oid = to_regclass('public.' || t.name) and c.relkind = 'r'
-- Columns of other names with the same values: null unless each missing column has one.
left join lateral (
  select case when bool_and(s.name is not null) then
    string_agg(format('alter table public.%I add column %I uuid generated always as (%I) stored;', t.name, k.name, coalesce(s.name, '?')),
               E'\n' order by k.name) end as statements
  from unnest(t.columns) k (name)
  left join pg_attribute a on a.attrelid = c.oid and a.attname = k.name and not a.attisdropped
  left join lateral (
    select o.attname as name
    from pg_attribute o
    left join pg_constraint f on f.conrelid = c.oid and f.contype = 'f' and f.conkey = array[o.attnum]
    left join pg_constraint p on p.conrelid = c.oid and p.contype = 'p' and p.conkey = array[o.attnum]
    where o.attrelid = c.oid and o.attnum > 0 and not o.attisdropped and o.atttypid = 'uuid'::regtype and o.attgenerated = ''
      and case k.name
        when 'org_id' then f.confrelid = to_regclass('public.organizations')
          or o.attname in ('organization_id', 'organisation_id', 'organizationId', 'organisationId', 'orgId', 'tenant_id')
        when 'user_id' then f.confrelid = to_regclass('auth.users')
          or o.attname in ('userId', 'profile_id', 'profileId', 'member_id', 'memberId', 'account_id')
        else p.oid is not null end
    order by f.oid is null, o.attnum limit 1) s on true
  where a.attname is null or a.atttypid <> 'uuid'::regtype or a.attgenerated = 'v'
    -- A column of the name must be free.
  having bool_and(a.attname is null)) g on true
-- Warden fills in a name of a text type. The statement is an example that works unless a constraint demands more; a row
-- of another table is for a person to choose.
cross join lateral (
  select array_agg(quote_ident(a.attname) order by a.attnum) filter (where not x.is_name) as columns,
    format('insert into public.organizations (id, %s) values (''a0000000-0000-0000-0000-000000000001'', %s);',
           string_agg(quote_ident(a.attname), ', ' order by a.attnum), string_agg(v.example, ', ' order by a.attnum)) as statement
  from pg_attribute a
  join pg_type y on y.oid = a.atttypid
  cross join lateral (select a.attname = 'name' and a.atttypid in ('text'::regtype, 'varchar'::regtype) as is_name) x
  left join lateral (
    -- Which row is a person's decision: it may make a user the owner of the organisation.
    select format('<%s of %s>', r.attname, k.confrelid::regclass) as row
    from pg_constraint k join pg_attribute r on r.attrelid = k.confrelid and r.attnum = k.confkey[1]
    where k.conrelid = a.attrelid and k.contype = 'f' and k.conkey = array[a.attnum] limit 1) f on true
  cross join lateral (select case
    when x.is_name then '''Default organization'''
    when f.row is not null then f.row
    when y.typtype = 'e' then (select quote_literal(e.enumlabel) from pg_enum e where e.enumtypid = y.oid
                               order by e.enumsortorder limit 1)
    when y.typcategory = 'N' then '0'
    when y.typcategory = 'B' then 'false'
    when y.typcategory = 'D' then 'now()'
    when y.typcategory = 'T' then '''0'''
    when y.typcategory = 'A' or y.typname in ('json', 'jsonb') then '''{}'''
    when y.typname = 'uuid' then 'gen_random_uuid()'
    else quote_literal(case when a.atttypmod > 4 and y.typname in ('varchar', 'bpchar') then left(a.attname, a.atttypmod - 4)
                            else a.attname end) end as example) v
  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attnotnull and not a.atthasdef
    and a.attidentity = '' and a.attgenerated = '' and a.attname <> 'id') d
order by 1
