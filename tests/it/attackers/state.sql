-- What an attack must not change: rows that concern the organisation A, who is a member of which organisation, Warden's
-- own tables, and every object and right outside temporary schemas. One document.
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
  'kept', (select jsonb_agg(query_to_xml(format('select to_jsonb(t) from %s t order by 1', rel), true, false, '')::text
                            order by rel)
    from kept where to_regclass(rel) is not null),
  'forged', case when to_regclass('warden.events') is not null then
    query_to_xml($$select count(*) from warden.events where event like '%forged%' or data::text like '%forged%'$$,
                 true, false, '')::text end,
  'relations', (select md5(string_agg(concat_ws(' ', c.oid, c.relname, c.relkind, c.relowner, c.relacl,
                  c.relrowsecurity, c.relforcerowsecurity, c.reloptions, c.relispartition), E'\n' order by c.oid))
    from pg_class c where c.relpersistence <> 't' and c.relnamespace <> 'pg_toast'::regnamespace
      and not pg_is_other_temp_schema(c.relnamespace) and c.relnamespace::regnamespace::text !~ '^pg_(toast_)?temp'),
  'functions', (select md5(string_agg(concat_ws(' ', p.oid, p.prosrc, p.proowner, p.proacl, p.prosecdef, p.proconfig),
                  E'\n' order by p.oid))
    from pg_proc p where p.pronamespace::regnamespace::text !~ '^pg_temp'),
  'policies', (select jsonb_agg(to_jsonb(p) order by p.oid) from pg_policy p),
  'triggers', (select md5(string_agg(concat_ws(' ', t.oid, t.tgrelid, t.tgenabled, t.tgfoid), E'\n' order by t.oid))
    from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relpersistence <> 't'),
  'rules', (select md5(string_agg(r.oid::text, ' ' order by r.oid)) from pg_rewrite r),
  'constraints', (select md5(string_agg(k.oid || ' ' || k.convalidated, ' ' order by k.oid))
    from pg_constraint k where k.connamespace::regnamespace::text !~ '^pg_temp'),
  'comments', (select md5(string_agg(d.description, ' ' order by d.objoid, d.classoid, d.objsubid))
    from pg_description d),
  'default rights', (select jsonb_agg(to_jsonb(a) order by a.oid) from pg_default_acl a),
  'schemas', (select md5(string_agg(concat_ws(' ', n.oid, n.nspname, n.nspowner, n.nspacl), ' ' order by n.oid))
    from pg_namespace n where n.nspname !~ '^pg_(toast_)?temp'),
  'roles', (select md5(string_agg(concat_ws(' ', r.rolname, r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolcanlogin),
                  ' ' order by r.oid)) from pg_roles r where r.rolname !~ '^audited_'),
  'memberships', (select md5(string_agg(concat_ws(' ', m.roleid, m.member, m.admin_option), ' '
                  order by m.roleid, m.member, m.grantor)) from pg_auth_members m),
  'extensions', (select jsonb_agg(e.extname order by e.extname) from pg_extension e)
)
