-- What takes the name of one of Warden's objects outside the functions: schema warden, types and relations. Columns:
-- subject, problem, remedy, and the name by which an operator accepts it.
with ours as (
  select n.oid, n.nspowner, pg_get_userbyid(n.nspowner) as owner,
    to_regclass('warden._sqlx_migrations') is not null or to_regclass('warden.tenant_tables') is not null
      or n.nspowner = (select oid from pg_roles where rolname = 'warden_owner')
      -- A run that was killed may have left an empty one.
      or pg_has_role(n.nspowner, 'usage')
        and not exists (select from pg_class c where c.relnamespace = n.oid)
        and not exists (select from pg_proc p where p.pronamespace = n.oid)
        and not exists (select from pg_type t where t.typnamespace = n.oid) as is_own
  from pg_namespace n where n.nspname = 'warden'
)
select 'schema warden' as subject,
  format('belongs to the application (its owner is %s): Warden installs its own schema of that name', owner) as problem,
  'alter schema warden rename to application_warden;' as remedy, null as accepted_as
-- Without the role warden_owner it is not known, which is as good as no.
from ours where is_own is not true
union all
select 'schema warden', format('belongs to %s, of which %s is not a member', owner, current_user),
  'As a superuser: alter schema warden owner to warden_owner;', null
from ours where is_own and not pg_has_role(nspowner, 'usage') and owner <> 'warden_owner'
union all
select format('%s %s', case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                                      else 'table' end, c.oid::regclass),
  format('is in schema warden, and belongs to %s, of which %s is not a member', pg_get_userbyid(c.relowner),
         current_user),
  format('As a superuser: alter table %s owner to warden_owner;', c.oid::regclass)
    || case when c.relname in ('_sqlx_migrations', '_platform_migrations') then ''
            else format(' or, if it is the application''s: alter table %s set schema public;', c.oid::regclass) end, null
from ours o join pg_class c on c.relnamespace = o.oid and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
where o.is_own and not pg_has_role(c.relowner, 'usage') and pg_get_userbyid(c.relowner) <> 'warden_owner'
union all
-- A type takes the name of a table, because a table has a type.
select format('type public.%I', t.typname), 'takes the name of Warden''s table',
  format('alter type public.%I rename to %I;', t.typname, 'application_' || t.typname), null
from pg_type t
where t.typnamespace = 'public'::regnamespace and t.typname in ('organizations', 'organization_members')
  and to_regclass(format('public.%I', t.typname)) is null
union all
select format('%s public.%I', k.kind, c.relname), format('is a %s, and Warden needs a table of that name', k.kind),
  format('alter %s public.%I rename to %I;', k.kind, c.relname, 'application_' || c.relname), null
from pg_class c, lateral (select case c.relkind when 'v' then 'view' when 'm' then 'materialized view'
    when 'S' then 'sequence' when 'i' then 'index' when 'I' then 'index' when 'f' then 'foreign table'
    when 'c' then 'type' when 'p' then 'partitioned table' end as kind) k
where c.relnamespace = 'public'::regnamespace and c.relname in ('organizations', 'organization_members')
  and c.relkind <> 'r'
union all
select format('%s public.%I', case c.relkind when 'i' then 'index' else 'relation' end, c.relname),
  'takes the name of an index of public.organization_members, which Warden creates',
  format('alter %s public.%I rename to %I;', case c.relkind when 'i' then 'index' else 'table' end, c.relname,
         'application_' || c.relname), null
from pg_class c
where c.relnamespace = 'public'::regnamespace and to_regclass('public.organization_members') is null
  and c.relname in ('organization_members_user', 'organization_members_one_primary')
union all
select 'schema public', format('does not let %s create Warden''s functions and tables', current_user),
  format('As its owner: grant create on schema public to %I;', current_user), null
where not has_schema_privilege('public', 'create')
order by 1, 2
