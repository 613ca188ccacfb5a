-- What an attack must not change: rows that concern the organisation A, who is a member of which organisation, Warden's
-- own tables, and every object and right outside temporary schemas. One document. It names objects instead of their
-- numbers, and contains no times, so it is the same for two databases with the same content.
with concerned (rel, condition) as (
  values
    ('public.projects', 'true'), ('public.documents', 'true'), ('public.visits', 'true'), ('public.items', 'true')
), kept (rel) as (
  values
    ('public.organizations'), ('public.organization_members'), ('public.countries'), ('warden.tenant_tables'),
    ('warden.tenant_indexes'), ('warden.watches'), ('warden.topics'), ('warden.entity_topics'), ('warden.revocations'),
    ('warden.decisions')
)
select jsonb_build_object(
  'rows', (select jsonb_agg(query_to_xml(format(
      $$select t.tableoid::regclass, d.doc from %s t, to_jsonb(t) as d (doc)
        where d.doc::text ~ 'secret-of-a'
           or case when d.doc ? 'org_id' then d.doc ->> 'org_id' = '0a000000-0000-4000-8000-00000000000a'
                   else d.doc::text ~ '1a000000-0000-4000|a0000000-0000-4000-8000-0000000000a1' end
        order by 2, 1$$, rel), true, false, '')::text order by rel)
    from concerned where to_regclass(rel) is not null),
  'kept', (select jsonb_agg(query_to_xml(format(
      $$select to_jsonb(t) - '{created_at,updated_at,relation_id,members,shape}'::text[] from %s t order by 1$$, rel),
      true, false, '')::text order by rel)
    from kept where to_regclass(rel) is not null),
  'forged', case when to_regclass('warden.events') is not null then
    query_to_xml($$select count(*) from warden.events where event like '%forged%' or data::text like '%forged%'$$,
                 true, false, '')::text end,
  'relations', (select jsonb_agg(line order by line)
    from pg_class c, concat_ws(' ', c.relnamespace::regnamespace, c.relname, c.relkind, c.relowner, c.relacl,
                               c.relrowsecurity, c.relforcerowsecurity, c.reloptions, c.relispartition) line
    where c.relpersistence <> 't' and c.relnamespace <> 'pg_toast'::regnamespace
      and not pg_is_other_temp_schema(c.relnamespace) and c.relnamespace::regnamespace::text !~ '^pg_(toast_)?temp'),
  'functions', (select jsonb_agg(line order by line)
    from pg_proc p, concat_ws(' ', p.oid::regprocedure, md5(regexp_replace(p.prosrc, '[0-9]{5,}|[0-9a-f]{32}', '', 'g')),
                               p.proowner, p.proacl, p.prosecdef, p.proconfig) line
    where p.pronamespace::regnamespace::text !~ '^pg_temp'),
  'policies', (select jsonb_agg(to_jsonb(p) order by p.schemaname, p.tablename, p.policyname) from pg_policies p),
  -- PostgreSQL names the triggers of foreign keys after the keys' numbers.
  'triggers', (select jsonb_agg(line order by line)
    from pg_trigger t join pg_class c on c.oid = t.tgrelid left join pg_constraint k on k.oid = t.tgconstraint,
         concat_ws(' ', t.tgrelid::regclass, t.tgfoid::regproc, t.tgenabled,
                   case when t.tgisinternal then k.conname else pg_get_triggerdef(t.oid) end) line
    where c.relpersistence <> 't'),
  'rules', (select jsonb_agg(line order by line)
    from pg_rewrite r, concat_ws(' ', r.ev_class::regclass, pg_get_ruledef(r.oid)) line),
  'constraints', (select jsonb_agg(line order by line)
    from pg_constraint k, concat_ws(' ', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid)) line
    where k.connamespace::regnamespace::text !~ '^pg_temp'),
  'comments', (select jsonb_agg(d.description order by d.description) from pg_description d
    where d.objoid >= 16384),
  'default rights', (select jsonb_agg(line order by line)
    from pg_default_acl a,
         concat_ws(' ', a.defaclrole, a.defaclnamespace::regnamespace, a.defaclobjtype, a.defaclacl) line),
  'schemas', (select jsonb_agg(concat_ws(' ', n.nspname, n.nspowner, n.nspacl) order by n.nspname)
    from pg_namespace n where n.nspname !~ '^pg_(toast_)?temp'),
  'roles', (select jsonb_agg(line order by line)
    from pg_roles r, concat_ws(' ', r.rolname, r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolcanlogin) line
    where r.rolname !~ '^audited_'),
  'memberships', (select jsonb_agg(line order by line)
    from pg_auth_members m, concat_ws(' ', m.roleid, m.member, m.admin_option) line),
  'extensions', (select jsonb_agg(e.extname order by e.extname) from pg_extension e)
)
