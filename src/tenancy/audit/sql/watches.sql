-- Compares the arguments of warden.watch() with the watched tables.
with recursive watched as (
  select w.*, w.relation::oid as oid, r.full_name, c.relkind,
    format('select warden.watch(%L, %L, %L, %s%s%s%s);', r.full_name, w.topic, w.event_prefix,
      format('entity_column => %L', w.entity_column),
      case when w.entity_topic is not null then
        format(', entity_topic => %L, entity_topic_column => %L', w.entity_topic, w.entity_topic_column) else '' end,
      case when w.omit_columns <> '{}' then format(', omit_columns => %L', w.omit_columns) else '' end,
      case when w.org_column <> 'org_id' then format(', org_column => %L', w.org_column) else '' end) as call
  from warden.watches w
  left join pg_class c on c.oid = w.relation
  left join pg_namespace n on n.oid = c.relnamespace
  -- Null if the table was dropped.
  cross join lateral (select quote_ident(n.nspname) || '.' || quote_ident(c.relname) as full_name) r
), columns as (
  select w.full_name, w.call, w.oid, u.name, u.use,
    exists (select from pg_attribute a where a.attrelid = w.oid and a.attname = u.name
                                         and a.attnum > 0 and not a.attisdropped) as is_present
  from watched w
  cross join lateral (
    values (w.entity_column::text, 'entity_column'), (w.entity_topic_column::text, 'entity_topic_column'),
           (w.org_column::text, 'org_column')
    union all select o.name, 'omit_columns' from unnest(w.omit_columns) o (name)) u (name, use)
  where w.full_name is not null and u.name is not null
), tree as (
  select w.oid as root, w.oid from watched w where w.full_name is not null
  union all
  select t.root, i.inhrelid from pg_inherits i join tree t on i.inhparent = t.oid
), wanted as (
  select t.root, t.oid, g.name
  from tree t join pg_class c on c.oid = t.oid and c.relkind in ('r', 'p'),
  (values ('warden_log_insert'), ('warden_log_update'), ('warden_log_delete'), ('warden_log_truncate')) g (name)
  union all
  -- For registered tables, the rule `immutability` checks this trigger.
  select w.oid, w.oid, 'warden_org_id_immutable' from watched w
  where w.full_name is not null and w.org_column = 'org_id'
    and not exists (select from warden.tenant_tables t join pg_namespace n on n.nspname = t.schema_name
                    join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
                    where c.oid = w.oid and t.scope = 'org')
)
select 'watch-table' as rule, null::text as severity, null::text as "table", w.oid::text as object,
  format('a table that was watched (topic %s, events %s.*) was dropped', w.topic, w.event_prefix) as cause,
  'sql' as remedy_kind, format('delete from warden.watches where relation::oid = %s;', w.oid) as remedy
from watched w where w.full_name is null
union all
select 'watch-columns', null, c.full_name, c.name,
  case c.use
    when 'omit_columns' then
      format('it no longer has the omitted column %I: if the column was renamed, its values leave the database', c.name)
    else format('it no longer has the column %I, its %s: every write to it fails', c.name, c.use) end,
  'decide', 'with the column''s present name: ' || c.call
from columns c where not c.is_present
union all
select 'watch-columns', null, w.full_name, w.entity_column,
  format('%I is no longer unique by itself, or may be null: it cannot pair the rows of an update', w.entity_column),
  'decide', format('make it the primary key, or choose another column: %s', w.call)
from watched w
where w.full_name is not null
  and exists (select from columns c where c.oid = w.oid and c.use = 'entity_column' and c.is_present)
  and not exists (select from pg_index i
                  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
                    and a.attname = w.entity_column
                  where i.indrelid = w.oid and i.indisunique and i.indisvalid and i.indpred is null and a.attnotnull
                    and (i.indnkeyatts = 1 or w.relkind = 'p'))
union all
select 'watch-triggers', null, (select x.full_name from watched x where x.oid = n.root),
  n.name, format('trigger "%s"%s %s: %s', n.name,
    case when n.oid <> n.root then format(' of partition %s', n.oid::regclass) else '' end,
    case when g.oid is null then 'is missing'
         when f.proname !~ '^(log |prevent_org_id_change$)' then 'calls another function' else 'is disabled' end,
    case when n.name = 'warden_org_id_immutable' then 'rows can move between organisations'
         else 'changes of its rows emit no events' end),
  'sql', (select x.call from watched x where x.oid = n.root)
    || case when g.tgenabled in ('D', 'R') then
         format(' alter table %s enable trigger %I;', n.oid::regclass, n.name) else '' end
from wanted n
left join pg_trigger g on g.tgrelid = n.oid and g.tgname = n.name
left join pg_proc f on f.oid = g.tgfoid
where g.oid is null or g.tgenabled not in ('O', 'A') or f.proname !~ '^(log |prevent_org_id_change$)'
