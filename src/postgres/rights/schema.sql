-- A row if the current role may not use schema warden, or (if $1 is true) may not read its tables: the role, what it
-- may not do, whether it is a member of warden_owner, and the remedy. The role that installed Warden owns the record of
-- the migrations.
select quote_ident(current_user) as role,
  case when has_schema_privilege(n.oid, 'usage') then 'read the tables of' else 'use' end as action, m.is_member,
  case
    when not m.is_member then format(
      '%sAs a superuser: grant %s to %I;',
      case when i.rolname <> 'warden_owner' then format('Use the role %I, which installed Warden. ', i.rolname) end,
      -- Such an installer also owns the tables.
      case when not i.rolsuper and i.rolname <> 'warden_owner' then quote_ident(i.rolname) else 'warden_owner' end,
      current_user)
    when current_setting('server_version_num')::int >= 160000 then format(
      'As a superuser: grant warden_owner to %I with inherit true;', current_user)
    else format('As a superuser: alter role %I inherit;', current_user)
  end as remedy
from pg_namespace n
left join pg_class c on c.relnamespace = n.oid and c.relname = '_sqlx_migrations'
join pg_roles i on i.oid = coalesce(c.relowner, n.nspowner)
cross join lateral (select exists (select from pg_roles o where o.rolname = 'warden_owner'
                                     and pg_has_role(o.oid, 'member')) as is_member) m
where n.nspname = 'warden'
  and (not has_schema_privilege(n.oid, 'usage')
       or $1 and exists (select from pg_class t where t.relnamespace = n.oid and t.relname = 'tenant_tables'
                           and not has_table_privilege(t.oid, 'select')))
