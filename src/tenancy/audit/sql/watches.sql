-- Compares the arguments of warden.watch() with the watched tables.
with recursive watched as (
  select w.*, w.relation::oid as oid, r.full_name, warden.watch_call(w) as call
  from warden.watches w
  left join pg_class c on c.oid = w.relation
  left join pg_namespace n on n.oid = c.relnamespace
  -- Null if the table was dropped.
  cross join lateral (select quote_ident(n.nspname) || '.' || quote_ident(c.relname) as full_name) r
), columns as (
  select w.full_name, w.call, w.oid, u.name, u.use,
    -- A renamed column keeps its number. A restored table has other numbers.
    exists (select from pg_attribute a where a.attrelid = w.oid and a.attnum > 0 and not a.attisdropped
              and (a.attname = u.name
                   or w.relation_id = w.oid and a.attnum = (w.column_numbers ->> u.name)::int)) as is_present
  from watched w
  cross join lateral (
    values (w.entity_topic_column::text, 'entity_topic_column'), (w.org_column::text, 'org_column')
    union all select k.name, 'key_columns' from unnest(w.key_columns) k (name)
    -- An omitted column that was dropped needs no decision. After a restore, nobody knows whether it was renamed.
    union all select o.name, 'omit_columns' from unnest(w.omit_columns) o (name)
              where w.relation_id <> w.oid and w.column_numbers ? o.name
    union all select f.name, 'filter_columns' from unnest(w.filter_columns) f (name)) u (name, use)
  where w.full_name is not null and u.name is not null
), live as (
  select w.oid, a.attname as name, a.attnum, a.atttypid, a.atttypid = 'uuid'::regtype as is_uuid,
    a.atttypid in ('uuid'::regtype, 'bigint'::regtype, 'integer'::regtype, 'smallint'::regtype, 'text'::regtype,
                   'character varying'::regtype) as is_id
  from watched w join pg_attribute a on a.attrelid = w.oid and a.attnum > 0 and not a.attisdropped
), keys as (
  -- Columns that could be the key.
  select w.oid, k.columns,
    (select string_agg(quote_ident(u.name), ', ' order by u.n) from unnest(k.columns) with ordinality u (name, n)) as label
  from watched w
  cross join lateral (
    select w.key_columns as columns
    union select array_remove(warden.index_columns(i.indexrelid), w.org_column::text)
          from pg_index i where i.indrelid = w.oid and i.indisunique
    union select array[l.name::text] from live l where l.oid = w.oid) k
  where warden.is_key(w.oid, k.columns, w.org_column)
    and not exists (select from live l where l.oid = w.oid and l.name::text = any (k.columns)
                      and not warden.is_key_type(l.atttypid))
), altered as (
  -- Columns whose type was changed to one that their use does not allow.
  select c.full_name, c.oid, c.name, c.use, format_type(l.atttypid, null) as type
  from columns c join watched w using (oid) join live l on l.oid = c.oid and l.name = c.name
  left join warden.entity_topics t on t.kind = w.entity_topic
  where case c.use when 'key_columns' then not warden.is_key_type(l.atttypid)
                   when 'org_column' then warden.base_type(l.atttypid) <> 'uuid'::regtype
                   when 'entity_topic_column'
                     then warden.entity_id_type(warden.base_type(l.atttypid)) is distinct from t.id_type end
), broken as (
  select c.full_name, c.oid, c.name, c.use, null::text as type from columns c where not c.is_present
  union all
  select a.full_name, a.oid, a.name, a.use, a.type from altered a
  union all
  select w.full_name, w.oid, array_to_string(w.key_columns, ', '), 'unique', null
  from watched w
  where w.full_name is not null and not exists (select from keys k where k.oid = w.oid and k.columns = w.key_columns)
    and not exists (select from columns c where c.oid = w.oid and c.use = 'key_columns'
                      and c.name not in (select l.name from live l where l.oid = w.oid))
    and not exists (select from altered a where a.oid = w.oid and a.use = 'key_columns')
  union all
  -- A dump keeps the order of columns, not their numbers: a name may be that of another column.
  select w.full_name, w.oid, case when p.key_columns is null or p.org_column is null then 'key' else 'columns' end, 'restored', null
  from watched w
  join warden.watches t on t.id = w.id
  cross join lateral warden.current_watch(t) p
  where w.full_name is not null and w.relation_id <> w.oid
    and (p.key_columns is null or p.org_column is null or p.omit_columns is null)
    and w.column_list is distinct from array(select l.name::text from warden.columns_of(w.oid) l)
    and not exists (select from columns c where c.oid = w.oid and not c.is_present)
    and not exists (select from altered a where a.oid = w.oid)
), kept as (
  -- The arguments that are still right, and the best guess for the others, so that a call mends one argument without
  -- failing because of another. If an omitted column is missing, a call omits every other column, unless the answer
  -- says what became of it.
  select w.oid, w.full_name, w.topic, w.event_prefix, w.entity_topic, to_jsonb(w) ->> 'visibility' as visibility,
    array(select l.name::text from live l where l.oid = w.oid and l.name = any (w.as_text)) as as_text,
    array(select l.name::text from live l where l.oid = w.oid and l.name = any (w.filter_columns)) as filter_columns,
    (select k.columns from keys k where k.oid = w.oid
     order by k.columns = w.key_columns desc, k.columns = warden.default_key(w.relation, w.org_column) desc,
       cardinality(k.columns), k.columns limit 1) as key_columns,
    (select l.name from live l where l.oid = w.oid and l.is_uuid
     order by l.name = w.org_column desc, l.name = 'org_id' desc, l.attnum limit 1) as org_column,
    (select l.name from live l where l.oid = w.oid and l.name = w.entity_topic_column
       and not exists (select from altered a where a.oid = w.oid and a.use = 'entity_topic_column')) as entity_topic_column,
    array(select l.name::text from live l where l.oid = w.oid and l.name = any (w.omit_columns)) as omitted,
    array(select l.name::text from live l where l.oid = w.oid and l.name <> w.org_column
            and l.name is distinct from w.entity_topic_column and l.name::text <> all (w.key_columns)) as others,
    (select count(*) from columns c where c.oid = w.oid and c.use = 'omit_columns' and not c.is_present) as lost,
    w.replicated
  from watched w where w.full_name is not null
), answers as (
  select b.oid, b.use, b.name, 1 as rank, format('it is now %I', l.name) as answer, k.key_columns,
    case when b.use = 'entity_topic_column' then l.name else k.entity_topic_column end as entity_topic_column,
    case when b.use = 'org_column' then l.name else k.org_column end as org_column,
    case when b.use = 'omit_columns' then k.omitted || l.name::text
         when k.lost > 0 then k.others else k.omitted end as omitted,
    case when b.use = 'filter_columns' then k.filter_columns || l.name::text else k.filter_columns end as filter_columns
  from broken b join kept k using (oid)
  join lateral (
    select l.* from live l
    where l.oid = b.oid and l.name <> b.name
      and case b.use when 'entity_topic_column' then l.is_id and exists (
                       select from warden.entity_topics t
                       where t.kind = k.entity_topic and t.id_type = warden.entity_id_type(l.atttypid))
                     when 'org_column' then l.is_uuid
                     when 'filter_columns' then l.name <> all (k.filter_columns || k.omitted)
                     when 'omit_columns' then k.lost = 1 and l.name = any (k.others) and l.name <> all (k.omitted)
                     else false end
    order by l.attnum desc limit 20) l on true
  union all
  select b.oid, b.use, b.name, 1, case when cardinality(l.columns) = 1 then 'it is now ' else 'the key is now ' end || l.label,
    l.columns, k.entity_topic_column, k.org_column, case when k.lost > 0 then k.others else k.omitted end,
    k.filter_columns
  from broken b join kept k using (oid)
  join lateral (select * from keys x where x.oid = b.oid and x.columns <> array[b.name]
                order by cardinality(x.columns), x.label limit 20) l on b.use in ('key_columns', 'unique')
  union all
  select b.oid, b.use, b.name, 2,
    case when b.use = 'entity_topic_column' then
           case when b.type is null then 'it is gone, and so is its topic' else 'the events need no entity topic' end
         when b.use = 'filter_columns' then 'it is gone, and so are its filters'
         when a.is_gone then 'it is gone, like every other omitted column that is missing'
         else 'I do not know: omit every column but the keys' end,
    k.key_columns, case when b.use <> 'entity_topic_column' then k.entity_topic_column end, k.org_column,
    case when a.is_gone and b.use = 'omit_columns' then k.omitted when k.lost > 0 then k.others else k.omitted end,
    k.filter_columns
  from broken b join kept k using (oid)
  join (values (true), (false)) a (is_gone)
    on b.use = 'omit_columns' or b.use in ('entity_topic_column', 'filter_columns') and a.is_gone
  union all
  select b.oid, b.use, b.name, a.rank, a.answer, k.key_columns, k.entity_topic_column, k.org_column,
    case a.rank when 1 then k.omitted else k.others end, k.filter_columns
  from broken b join kept k using (oid)
  join (values (1, 'yes'), (2, 'I do not know: omit every column but the keys')) a (rank, answer)
    on b.use = 'restored' and (a.rank = 1 or b.name <> 'key')
), choices as (
  select a.oid, a.use, a.name, a.rank, a.answer,
    format('select warden.watch(%L, %L, %L, key_columns => %L%s%s%s%s%s%s%s);', k.full_name, k.topic, k.event_prefix,
      a.key_columns,
      case when a.entity_topic_column is not null then format(', entity_topic => %L, entity_topic_column => %L',
                                                              k.entity_topic, a.entity_topic_column) else '' end,
      case when a.omitted <> '{}' then format(', omit_columns => %L', a.omitted) else '' end,
      case when a.org_column <> 'org_id' then format(', org_column => %L', a.org_column) else '' end,
      case when k.visibility is not null then format(', visibility => %L', k.visibility) else '' end,
      case when k.as_text <> '{}' then format(', as_text => %L', k.as_text) else '' end,
      case when k.replicated then ', replicated => true' else '' end,
      case when f.columns <> '{}' then format(', filter_columns => %L', f.columns) else '' end) as statement
  from answers a join kept k using (oid)
  -- A guess may omit more columns.
  cross join lateral (select array(select u from unnest(a.filter_columns) u where u <> all (a.omitted)) as columns) f
  where a.key_columns is not null and a.org_column is not null
  union all
  -- A unique constraint of a partitioned table contains the partition key.
  select b.oid, b.use, b.name, 0, k.label || ', and it must be so',
    coalesce(case when not k.may_be_null then d.remedy end,
      format('alter table %s %s, add unique (%s);', b.full_name, k.not_null, k.label
        || coalesce((select string_agg(format(', %I', p.name), '' order by p.name)
                     from unnest(warden.partition_key_columns(w.relation)) p (name) where p.name <> all (w.key_columns)),
                    '')))
  from broken b join watched w using (oid)
  cross join lateral warden.deferrable_key(w.relation, w.key_columns, w.org_column) d
  cross join lateral (
    select string_agg(quote_ident(u.name), ', ' order by u.n) as label,
      string_agg(format('alter column %I set not null', u.name), ', ' order by u.n) as not_null,
      bool_or(not a.attnotnull) as may_be_null
    from unnest(w.key_columns) with ordinality u (name, n)
    join pg_attribute a on a.attrelid = w.oid and a.attname = u.name) k
  where b.use = 'unique'
  union all
  select b.oid, b.use, b.name, 9, 'nobody needs its events', format('select warden.unwatch(%L);', b.full_name)
  from broken b
), tree as (
  select w.oid as root, w.oid from watched w where w.full_name is not null
  union all
  select t.root, i.inhrelid from pg_inherits i join tree t on i.inhparent = t.oid
)
select 'watch-table' as rule, null::text as severity, null::text as "table", w.oid::text as object,
  format('a table that was watched (topic %s, events %s.*) was dropped', w.topic, w.event_prefix) as cause,
  'sql' as remedy_kind, 'select warden.refresh_watches();' as remedy
from watched w where w.full_name is null
union all
select 'watch-shape', null, w.full_name, w.topic,
  'its columns have changed since its log function was generated: every write to it costs more, and after a restore '
    'its events may be truncated',
  'sql', 'select warden.refresh_watches();'
from watched w
where w.full_name is not null and not exists (select from broken b where b.oid = w.oid)
  and w.shape is distinct from warden.shape(warden.relations_of_document(w.relation))
union all
select 'watch-shape', null, w.full_name, w.topic,
  'a label of an enum was renamed, or a partition or child was dropped, while no event trigger told its clients: they '
    'have rows as they were before',
  'sql', 'select warden.refresh_watches();'
from watched w
where w.full_name is not null and w.relation_id = w.oid
  and not warden.has_current_documents((select t from warden.watches t where t.id = w.id))
union all
select 'watch-shape', null, w.full_name, t.oid::regclass::text,
  m.problem || case when c.relkind = 'f' then ', so every write to a table that contains it makes the topic resync' else '' end,
  case when c.relpersistence = 'u' then 'sql' else 'decide' end,
  case when c.relpersistence = 'u' then format('alter table %s set logged;', t.oid::regclass)
       else json_build_object('question', format('should %s remain a part of it?', t.oid::regclass), 'choices', json_build_array(
         json_build_array('no', 'sql', case
           when c.relispartition then format('alter table %s detach partition %s;', i.parent, t.oid::regclass)
           else format('alter %stable %s no inherit %s;', case c.relkind when 'f' then 'foreign ' else '' end,
                       t.oid::regclass, i.parent) end),
         json_build_array('yes, and nobody needs the events of the whole', 'sql',
                          format('select warden.unwatch(%L);', w.full_name))))::text end
from watched w join tree t on t.root = w.oid join pg_class c on c.oid = t.oid
cross join lateral (select warden.unwatchable_member(t.oid) as problem) m
left join lateral (select x.inhparent::regclass as parent from pg_inherits x where x.inhrelid = t.oid limit 1) i on true
where m.problem is not null
union all
select 'watch-shape', null, w.full_name, g.tgrelid::regclass::text,
  format('%s has its log triggers and is not part of it: a partition that was detached', g.tgrelid::regclass),
  'sql', 'select warden.refresh_watches();'
from watched w
join pg_trigger g on g.tgname = 'warden_log_insert' and g.tgfoid = to_regproc(format('warden.%I', 'log ' || w.id))
where w.full_name is not null and not exists (select from tree t where t.root = w.oid and t.oid = g.tgrelid)
union all
select 'watch-shape', null, w.full_name, m::text, format('%s has the log triggers of another watch', m),
  'sql', 'select warden.refresh_watches();'
from watched w cross join lateral warden.members_of_others((select t from warden.watches t where t.id = w.id)) m
where w.full_name is not null
union all
select distinct 'watch-shape', null, w.full_name, o.full_name,
  format('a part of it belongs to the watched table %s, whose topic has the events', o.full_name),
  'decide', json_build_object('question', 'which of the two tables should be watched?', 'choices', json_build_array(
    json_build_array(o.full_name, 'sql', format('select warden.unwatch(%L);', w.full_name)),
    -- Statements on a parent would emit no events, whether it is watched or not.
    case when not exists (select from pg_inherits i where i.inhrelid = w.oid) then
      json_build_array(w.full_name, 'sql', format('select warden.unwatch(%L);', o.full_name)) end))::text
from watched w join tree t on t.root = w.oid join watched o on o.id = warden.watch_of(t.oid) and o.id <> w.id
union all
select 'watch-shape', null, w.full_name, i.inhparent::regclass::text,
  format('it is a partition or child of %s: statements that name that table emit no events', i.inhparent::regclass),
  'decide', json_build_object('question', format('watch %s instead?', i.inhparent::regclass), 'choices', json_build_array(
    json_build_array('yes, I watch it afterwards', 'sql', format('select warden.unwatch(%L);', w.full_name))))::text
from watched w join pg_inherits i on i.inhrelid = w.oid
where w.full_name is not null and warden.watch_of(w.relation) = w.id
union all
select 'watch-columns', null, c.full_name, c.name,
  case
    when c.type is not null then format('its column %I (%s) now has the type %s: %s', c.name, c.use, c.type,
      case when c.use = 'entity_topic_column' then 'most of its events reach no entity topic'
           else 'every write makes the topic resync' end)
    when c.use = 'omit_columns' then
      format('the restored table lacks the omitted column %I: its rows are logged as truncated', c.name)
    when c.use = 'restored' then
      'it was restored from a dump, and its columns differ from those that were watched: a column may have the name '
        || case when c.name = 'key' then 'of the key or the organisation, so every write makes the topic resync'
                else 'of one that is omitted or sent as a string, so its rows are logged as truncated' end
    when c.use = 'unique' then coalesce((
      select format('its key (%s) is not unique within a transaction, because the constraint %s is DEFERRABLE: an event '
                    'may be about another row than it names', c.name, d.name)
      from watched w cross join lateral warden.deferrable_key(w.relation, w.key_columns, w.org_column) d
      where w.oid = c.oid and d.name is not null),
      format('its key (%s) is no longer unique, or may be null: it cannot pair the rows of an update', c.name))
    when c.use = 'entity_topic_column' then
      format('it no longer has the column %I, its entity_topic_column: its events reach no entity topic', c.name)
    when c.use = 'filter_columns' then
      format('it no longer has the column %I, one of its filter_columns: events of large rows may lack what filters need',
             c.name)
    else format('it no longer has the column %I, its %s: every write makes the topic resync', c.name, c.use) end,
  'decide',
  json_build_object('question', case when c.use = 'unique' or c.use = 'key_columns' and c.type is not null
                                       then 'which columns identify a row?'
                                     when c.use = 'restored'
                                       then 'do the arguments of its watch still name the right columns?'
                                     when c.type is not null then format('which column is its %s?', c.use)
                                     else format('what became of %I?', c.name) end,
    'choices', (select json_agg(json_build_array(x.answer, 'sql', x.statement) order by x.rank, x.answer)
                from choices x where x.oid = c.oid and x.use = c.use and x.name = c.name))::text
from broken c
union all
select 'watch-triggers', null, x.full_name, n.name, format('trigger "%s"%s %s: %s', n.name,
    case when n.member <> x.oid then format(' of partition %s', n.member) else '' end, n.problem,
    case when n.name = 'warden_org_id_immutable' then 'rows can move between organisations'
         when n.name ~ 'apply' then 'rows that logical replication applies emit no events'
         when n.name !~ 'log' then 'events of its rows may come in another order than their changes'
         else 'changes of its rows emit no events' end),
  'sql', x.call
    || case when n.name ~ 'apply' then format(' alter table only %s enable replica trigger %I;', n.member, n.name)
            when n.problem = 'is disabled' then format(' alter table %s enable trigger %I;', n.member, n.name) else '' end
from warden.trigger_problems() n join watched x on x.id = n.watch
union all
select 'watch-visibility', null, w.full_name, w.topic,
  'clients receive more of it than they may SELECT: ' || n.reason,
  'decide', json_build_object('question', format('who may receive the topic %s?', w.topic), 'choices', json_build_array(
    json_build_array('every member of the organisation, on purpose', 'sql',
      regexp_replace(w.call, '\);$', ', visibility => ''organisation'');')),
    json_build_array('only tokens whose claim app_metadata.warden_topics or warden_filters names it', 'sql',
      regexp_replace(w.call, '\);$', ', visibility => ''claim'');'))))::text
from watched w
cross join lateral (select warden.narrower_than_organization(
  w.relation, array(select unnest(w.omit_columns) except select unnest(w.key_columns)), w.org_column) as reason) n
where w.full_name is not null and w.visibility is null and n.reason is not null
union all
select 'watch-replication', null, w.full_name, w.topic,
  'a subscription of logical replication writes to it, and the rows that it applies emit no events',
  'decide', json_build_object('question', 'should they emit events?', 'choices', json_build_array(
    json_build_array('yes', 'sql', regexp_replace(w.call, '\);$', ', replicated => true);'))))::text
from watched w
where w.full_name is not null and not w.replicated and warden.is_subscribed(w.relation)
union all
select 'watch-triggers', null, format('%I.%I', n.nspname, c.relname), 'warden_log_insert',
  format('its log triggers (%s) belong to no watch, as after a restore without data, or of a detached partition',
         l.triggers),
  'decide', json_build_object('question', 'does anybody need its events?', 'choices', json_build_array(
    case when l.call is not null then json_build_array('yes', 'sql', l.call) end,
    json_build_array('no', 'sql', l.removal)))::text
from warden.lost_watches() l
join pg_class c on c.oid = l.relation join pg_namespace n on n.oid = c.relnamespace
union all
select 'watch-triggers', null, 'public.organizations', t.name,
  format('trigger "%s" is missing, disabled or changed: an organisation that is created with the id of a deleted one '
         'accepts the cursors of its former members', t.name),
  'sql', t.statement
from warden.missing_incarnation_triggers() t
