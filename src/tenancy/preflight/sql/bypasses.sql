-- Views, rules and functions through which ordinary roles may write the application's own organisations or memberships
-- without rights on these tables: they could make themselves members of any organisation. (warden.bypasses() does not
-- exist yet. The regular expressions are those of that function, and of warden.builds_statements().) Columns: table,
-- object, description, roles, and the statement that closes it.
with recursive tables as (
  select c.oid, c.relname, c.relowner, t.name from (values ('organizations'), ('organization_members')) t (name)
  join pg_class c on c.oid = to_regclass('public.' || t.name) and c.relkind in ('r', 'p')
  where not coalesce(obj_description(c.oid, 'pg_class') like '%(created by Warden)', false)
), powers as (
  -- Roles whose views and functions write the table, whatever its policies and grants say.
  select t.oid as relation, r.oid as role from tables t join pg_roles r
    on r.rolsuper or pg_has_role(r.oid, t.relowner, 'usage')
       or r.rolbypassrls and (has_any_column_privilege(r.oid, t.oid, 'insert, update') or has_table_privilege(r.oid, t.oid, 'delete'))
), ordinary as (
  select 'public' as name
  union all
  select r.rolname::text from pg_roles r
  where r.rolname !~ '^(pg_|warden_)' and r.rolname <> 'service_role'
    and not exists (select from pg_roles e where (e.rolsuper or e.rolbypassrls) and pg_has_role(r.oid, e.oid, 'member'))
    and not exists (select from tables t where pg_has_role(r.oid, t.relowner, 'usage'))
), views as (
  select v.oid, v.relname, v.relowner, format('%I.%I', n.nspname, v.relname) as name,
    exists (select from pg_options_to_table(v.reloptions) o
            where o.option_name = 'security_invoker' and o.option_value in ('true', 'on', '1', 'yes')) as is_invoker
  from pg_class v
  join pg_namespace n on n.oid = v.relnamespace and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
  where v.relkind = 'v'
), reads as (
  select distinct w.ev_class as view, d.refobjid as relation
  from pg_rewrite w
  join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass
    and d.refobjid <> w.ev_class
  where w.ev_class in (select v.oid from views v)
), above (relation, root, is_writing) as (
  -- PostgreSQL checks the rights on the table as the owner of the view that names it.
  select t.oid, t.oid, false from tables t
  union
  select v.oid, a.root, a.is_writing or not v.is_invoker and exists (
      select from powers p where p.relation = a.root and p.role = v.relowner)
  from above a join reads r on r.relation = a.relation join views v on v.oid = r.view
), routines as materialized (
  select p.oid, lower(p.proname) as lower_name, p.proowner, p.prosecdef, p.oid::regprocedure::text as signature,
    format('%I.%I', n.nspname, p.proname) as name, p.pronamespace, p.prorettype = 'trigger'::regtype as is_trigger,
    b.body, b.body ~ '\m(insert|update|delete|merge|truncate|copy)\M' as is_writing,
    l.lanname not in ('sql', 'plpgsql', 'internal')
      or regexp_replace(b.body, '--[^\n'']*(?=\n|$)', '', 'g')
         ~ '\m(execute|(query|cursor|table|schema|database)_to_xml\w*|ts_stat|ts_rewrite|xpath_table|crosstab\w*|connectby|pgr_\w+|cron\.\w+|pg_background_launch|graphql\.resolve)\M' as is_building
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
  join pg_language l on l.oid = p.prolang
  cross join lateral (select lower(coalesce(p.prosrc, '') || coalesce(pg_get_function_sqlbody(p.oid), '')) as body) b
  where p.prokind in ('f', 'p') and p.prorettype <> 'event_trigger'::regtype and exists (select from tables)
    and not (n.nspname = 'public' and coalesce(obj_description(p.oid, 'pg_proc') like '%(created by Warden)', false))
    and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
), named (lower_name, pattern, root, is_writing) as (
  select lower(c.relname), '(^|[^a-z0-9_])' || regexp_replace(lower(c.relname), '([^a-z0-9_ ])', '\\\1', 'g') || '($|[^a-z0-9_])',
    a.root, false
  from (select distinct relation, root from above) a join pg_class c on c.oid = a.relation
  union
  select r.lower_name, '(^|[^a-z0-9_])' || regexp_replace(r.lower_name, '([^a-z0-9_ ])', '\\\1', 'g') || '"?\s*\(', n.root,
    n.is_writing or r.is_writing
  from named n join routines r on not r.is_trigger
    and case when strpos(r.body, n.lower_name) > 0 then r.body ~ n.pattern else false end
), building (oid) as (
  select r.oid from routines r where r.is_building
  union
  select r.oid from building b join routines c on c.oid = b.oid and not c.is_trigger
  join routines r on case when strpos(r.body, c.lower_name) > 0
    then r.body ~ ('(^|[^a-z0-9_])' || regexp_replace(c.lower_name, '([^a-z0-9_ ])', '\\\1', 'g') || '"?\s*\(') else false end
), functions as (
  select r.*, n.root, 'writes' as does
  from routines r join named n on (n.is_writing or r.is_writing)
    and case when strpos(r.body, n.lower_name) > 0 then r.body ~ n.pattern else false end
  where r.prosecdef and exists (select from powers p where p.relation = n.root and p.role = r.proowner)
  union
  select r.*, t.oid, 'runs statements that it builds, and so may write'
  from routines r join building b on b.oid = r.oid cross join tables t
  where r.prosecdef and exists (select from powers p where p.relation = t.oid and p.role = r.proowner)
), relations as (
  -- What ordinary roles may write.
  select c.oid, c.relkind, c.relowner, format('%I.%I', n.nspname, c.relname) as name, array(
      select o.name from ordinary o
      where has_schema_privilege(o.name, n.oid, 'usage')
        and (has_any_column_privilege(o.name, c.oid, 'insert, update') or has_table_privilege(o.name, c.oid, 'delete'))) as writers
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
  where c.relkind in ('r', 'p', 'v')
    and (c.oid in (select a.relation from above a) or exists (select from pg_rewrite w where w.ev_class = c.oid and w.ev_type <> '1')
         or exists (select from pg_trigger g where g.tgrelid = c.oid and g.tgfoid in (select f.oid from functions f)))
), found as (
  select a.root, r.name as object, 'this view writes ' as does, 'its owner ' || r.relowner::regrole as owner, r.writers,
    'insert, update, delete on ' || r.name as rights, r.oid as relation, null::oid as routine
  from above a join relations r on r.oid = a.relation and r.relkind = 'v'
  where a.is_writing and pg_relation_is_updatable(r.oid, false) & 28 <> 0
  union
  select t.oid, r.name || '.' || w.rulename, 'the actions of this rule reach ', 'the owner ' || r.relowner::regrole,
    r.writers, 'insert, update, delete on ' || r.name, r.oid, null
  from relations r
  join pg_rewrite w on w.ev_class = r.oid and w.ev_type <> '1'
  join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass
  join tables t on t.oid = d.refobjid and t.oid <> r.oid
  where exists (select from powers p where p.relation = t.oid and p.role = r.relowner)
  union
  select f.root, f.name, format('this function %s ', f.does), f.proowner::regrole::text, array(
      select o.name from ordinary o
      where has_schema_privilege(o.name, f.pronamespace, 'usage') and has_function_privilege(o.name, f.oid, 'execute')),
    'execute on routine ' || f.signature, null, f.oid
  from functions f where not f.is_trigger
  union
  select f.root, f.name, format('this function, the trigger "%s" of %s, %s ', g.tgname, r.name, f.does),
    f.proowner::regrole::text, r.writers, 'insert, update, delete on ' || r.name, r.oid, null
  from functions f
  join pg_trigger g on g.tgfoid = f.oid and not g.tgisinternal and g.tgenabled <> 'D' and g.tgparentid = 0
  join relations r on r.oid = g.tgrelid and r.oid <> f.root
  where f.is_trigger
)
select string_agg(distinct 'public.' || t.name, ' and ') as "table", f.object, f.does as description, f.owner,
  f.writers as roles, (
    select format('revoke %s from %s%s;', f.rights, string_agg(distinct case x.grantee when 0 then 'public' else x.grantee::regrole::text end, ', '),
                  case when bool_or(x.is_grantable or x.grantor <> x.owner) then ' cascade' else '' end)
    from (
      select a.grantee, a.grantor, a.is_grantable, p.proowner as owner
      from pg_proc p cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where p.oid = f.routine
      union all
      select a.grantee, a.grantor, a.is_grantable, c.relowner
      from pg_class c cross join lateral (
        select y.* from aclexplode(c.relacl) y
        union all select y.* from pg_attribute k cross join lateral aclexplode(k.attacl) y where k.attrelid = c.oid) a
      where c.oid = f.relation and a.privilege_type in ('INSERT', 'UPDATE', 'DELETE')) x
    left join pg_roles g on g.oid = x.grantee
    where x.grantee <> x.owner and not coalesce(g.rolsuper or g.rolbypassrls, false)
  ) as statement
from found f join tables t on t.oid = f.root
where f.writers <> '{}'
group by f.object, f.does, f.owner, f.writers, f.rights, f.routine, f.relation
order by f.object, f.does
