-- Ordinary roles that own schema `warden` or objects in it. Such a role created the schema before Warden was installed,
-- and its functions, triggers and grants would become part of Warden. Columns: subject, problem, remedy, accepted_as.
with trusted as (
  select r.oid from pg_roles r join pg_database d on d.datname = current_database()
  where r.rolsuper or r.oid = d.datdba or r.rolname in (current_user, 'pg_database_owner')
     -- Roles that migrate are its members.
     or pg_has_role(r.oid, (select w.oid from pg_roles w where w.rolname = 'warden_owner'), 'member')
), planted as (
  select s.refobjid::regrole::text as role, i.type, i.identity
  from pg_shdepend s cross join lateral pg_identify_object(s.classid, s.objid, s.objsubid) i
  where s.dbid = (select d.oid from pg_database d where d.datname = current_database())
    and s.deptype = 'o' and s.refobjid not in (select t.oid from trusted t)
    and (i.schema = 'warden' or i.type = 'schema' and i.identity = 'warden')
    -- The functions of fill triggers. Each belongs to the owner of the table or of its parent, with whose rights it
    -- runs, and the migration leaves it to its owner.
    and not exists (
      select from pg_proc p
      where p.oid = s.objid and s.classid = 'pg_proc'::regclass and p.proname like 'fill %'
        and p.prorettype = 'trigger'::regtype)
)
select 'schema warden' as subject,
  format('%s owns %s%s: what a role created under Warden''s names before Warden was installed can read and change what '
         'Warden protects', p.role,
         string_agg(format('%s %s', p.type, p.identity), ', ' order by p.type <> 'schema', p.identity collate "C")
           filter (where p.n <= 5),
         case when count(*) > 5 then format(' and %s more', count(*) - 5) else '' end) as problem,
  format('If Warden was never installed in this database: drop schema warden cascade; If it was restored by %s: run '
         'warden migrate as that role once.', p.role) as remedy,
  null::text as accepted_as
from (select q.*, row_number() over (partition by q.role order by q.type <> 'schema', q.identity collate "C") as n from planted q) p
group by p.role
order by p.role
