-- Functions of the application that a function of Warden in schema public would replace or make ambiguous, and Warden's
-- own that another role owns. (warden.occupants() says the same, but may not exist yet.)
with wanted (name, arguments, result) as (
  values ('auth_org_id', '', 'uuid'), ('auth_user_id', '', 'uuid'), ('prevent_org_id_change', '', 'trigger'),
         ('custom_access_token_hook', 'jsonb', 'jsonb')
), present as (
  select w.*, p.oid, p.proowner, p.prokind, pg_get_userbyid(p.proowner) as owner,
    -- As warden.is_own() decides.
    coalesce(obj_description(p.oid, 'pg_proc') like '%text ' || md5(p.prosrc) || ' (created by Warden)', false)
      or exists (select from pg_proc o join pg_namespace n on n.oid = o.pronamespace
                 where n.nspname = 'warden' and o.proname = p.proname and o.prosrc = p.prosrc)
      or md5(p.prosrc) in (
        'c1ce8ec1ef41e8da60e2a36670d4b943', 'ddaf8c984832b0cabdf3664caa3ef809', 'dcc596186624cca2fb09e8e6e6813da1',
        '1e93c3b40cf1d56a504bec4d04927d49', '103409cc36a26eb7561839e7fee7a708', 'c7e8b046d1a65764e6e42dea90f7c56a',
        'fb9cdae8a4ca0fbee9071ed775216519', '8824ea4b7af5aa314ef5fbe60f875d46'
      ) as is_own,
    oidvectortypes(p.proargtypes) = w.arguments and p.prokind = 'f' and not p.proretset
      and format_type(p.prorettype, null) = w.result as is_alike
  from wanted w join pg_proc p on p.proname = w.name and p.pronamespace = 'public'::regnamespace
  where case w.arguments when '' then p.pronargs = p.pronargdefaults
          else p.pronargs - p.pronargdefaults <= 1 and p.pronargs >= 1 and p.proargtypes[0] = 'jsonb'::regtype end
)
select p.name, p.oid::regprocedure::text as signature, p.owner, p.is_own, p.is_alike,
  -- A superuser has the rights of every role, but not every role may decide what isolates.
  pg_has_role(p.proowner, 'usage')
    and (r.rolsuper or p.proowner in (d.datdba, o.oid) or r.rolname = current_user
         or coalesce(pg_has_role(p.proowner, w.oid, 'member'), false)) as is_owned,
  -- As in warden.application_token_hook(): nobody else may decide about the claims of a token.
  r.rolsuper or p.proowner in (d.datdba, o.oid) or pg_has_role(p.proowner, o.oid, 'usage')
    or not o.rolsuper and pg_has_role(o.oid, p.proowner, 'usage') as is_trusted,
  case p.prokind when 'a' then 'aggregate ' || p.oid::regprocedure else pg_get_functiondef(p.oid) end as definition,
  array(select distinct pg_describe_object(o.classid, o.objid, o.objsubid) from pg_depend o
        where o.refclassid = 'pg_proc'::regclass and o.refobjid = p.oid and o.deptype in ('n', 'a')
        order by 1) as dependents,
  to_regprocedure('public.custom_access_token_hook_before_warden(jsonb)') is not null as has_former_hook,
  quote_ident(current_user) as role
from present p
join pg_roles r on r.oid = p.proowner
join pg_database d on d.datname = current_database()
join pg_roles o on o.oid = coalesce((select c.relowner from pg_class c where c.oid = to_regclass('public.organizations')),
                                    (select m.oid from pg_roles m where m.rolname = current_user))
-- Roles that migrate are its members.
left join pg_roles w on w.rolname = 'warden_owner'
order by p.name, p.oid
