-- Publishing for back ends, inside the caller's own transaction: an event exists if and only if that transaction
-- commits.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

create or replace function warden.is_published_topic(topic text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return exists (select from warden.topics t where t.name = is_published_topic.topic)
         or exists (select from warden.entity_topics t
                    where t.kind = pg_catalog.split_part(is_published_topic.topic, ':', 1)
                      and warden.is_entity_id(
                        t.id_type, pg_catalog.substr(is_published_topic.topic, pg_catalog.length(t.kind) + 2)));
end
$$;

-- What is wrong with an event, and what to do about it. Null if nothing is.
create or replace function warden.publish_problem(topic text, event text, data jsonb, out message text, out hint text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  data_bytes_max constant int := 65536;
begin
  if warden.is_published_topic(topic) is not true then
    message := pg_catalog.format('topic "%s" does not exist', pg_catalog.left(topic, 200));
    hint := 'Declare it once: select warden.declare_topic(''name''); for topics of single entities (kind:id): '
            'select warden.declare_entity_topic(''kind'', ''uuid''). Each id has one spelling: write a uuid in '
            'lower case.';
  elsif event is null or event !~ '^[A-Za-z][A-Za-z0-9_.:-]{0,126}$' or event ~ '^(warden[.]|org[.]|phx_)' then
    message := pg_catalog.format('event name "%s" is not valid', pg_catalog.left(event, 200));
    hint := 'Use up to 127 letters, digits and _ . : - starting with a letter; warden., org. and phx_ are reserved.';
  -- Neither a compressed value nor a long number is unfolded, only to be rejected.
  elsif pg_catalog.pg_column_size(data) > 6 * data_bytes_max
        or pg_catalog.pg_column_compression(data) is not null
           and pg_catalog.pg_column_size(array[data]) > 6 * data_bytes_max then
    message := pg_catalog.format('data has too many bytes, at most %s are allowed', data_bytes_max);
    hint := 'Publish a reference, and let clients fetch the data.';
  elsif pg_catalog.jsonb_path_exists(data, '$.**{500}') or not warden.has_short_numbers(data) then
    message := 'data is nested more than 500 levels deep, or has a number of more than 400 digits';
    hint := 'Publish long numbers as strings.';
  -- The size as text, because clients get text.
  elsif pg_catalog.octet_length(data::text) > data_bytes_max then
    message := pg_catalog.format('data has %s bytes, at most %s are allowed',
                                 pg_catalog.octet_length(data::text), data_bytes_max);
    hint := 'Publish a reference, and let clients fetch the data.';
  end if;
end
$$;

-- Fails unless the organisation exists.
create or replace function warden.expect_organization(org_id uuid, caller text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if expect_organization.org_id is null
     or not exists (select from public.organizations o where o.id = expect_organization.org_id) then
    raise exception '%: organisation % does not exist', caller, coalesce(expect_organization.org_id::text, 'null')
      using errcode = '22023', hint = 'org_id is the id of a row in public.organizations.';
  end if;
end
$$;

-- Converts a string to a trace context of version 00 (W3C Trace Context). Returns null if the string is not a valid
-- trace context, because the standard demands that an invalid one is ignored. Of a later version, only the fields that
-- version 00 has are kept.
create or replace function warden.trace_context(traceparent text) returns text
language sql immutable strict set search_path = pg_catalog, pg_temp as $$
  select '00' || pg_catalog.substr(traceparent, 3, 53)
  where traceparent collate "C" ~ '^(00|(?!ff)[0-9a-f]{2}(?=.{53}(-|$)))-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}'
    and (pg_catalog.length(traceparent) = 55 or traceparent !~ '^00')
    and traceparent !~ '^..-(0{32}|.{32}-0{16})-'
$$;

-- Publishes an event to an organisation, and returns its id. Invalid arguments give an error with SQLSTATE 22023.
--   topic  a name in warden.topics, or <kind>:<id> with a kind in warden.entity_topics
--   event  e.g. 'invoice.paid'; names that start with warden., org. or phx_ are reserved
--   data   at most 65,536 bytes of JSON text
-- If the transaction has set `warden.traceparent`, events carry this trace context.
create or replace function warden.publish(org_id uuid, topic text, event text, data jsonb default '{}')
returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set row_security = on as $$
declare
  problem record;
  step bigint;
  published bigint;
begin
  perform warden.expect_organization(publish.org_id, 'warden.publish');
  problem := warden.publish_problem(publish.topic, publish.event, publish.data);
  if problem.message is not null then
    raise exception 'warden.publish: %', problem.message using errcode = '22023', hint = problem.hint;
  end if;
  -- Before the event gets an id: the first call within a statement finds the end of the log, from which it is sorted.
  step := warden.publish_step();
  insert into warden.events (org_id, topic, event, data, needs_claim, step, traceparent)
  values (publish.org_id, publish.topic, publish.event, coalesce(publish.data, '{}'),
          exists (select from warden.watches w where w.topic = publish.topic and w.visibility = 'claim'),
          step, warden.trace_context(pg_catalog.current_setting('warden.traceparent', true)))
  returning id into published;
  return published;
end
$$;

-- What is wrong with a list of events for warden.publish_all(): a row for each event that is not valid, with its index
-- from 0.
create or replace function warden.publish_problems(events jsonb)
returns table (index int, message text, hint text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  form constant text := 'An event is an object: {"topic": "invoices", "event": "invoice.paid", "data": {"id": 42}}.';
  item record;
  problem record;
begin
  for item in select e.value, (e.ordinality - 1)::int as index
              from pg_catalog.jsonb_array_elements(events) with ordinality e loop
    index := item.index;
    hint := form;
    if pg_catalog.jsonb_typeof(item.value) <> 'object' then
      message := pg_catalog.format('a value of type %s is not an event', pg_catalog.jsonb_typeof(item.value));
      return next;
    elsif item.value - array['topic', 'event', 'data', 'traceparent'] <> '{}' then
      message := pg_catalog.format('unknown field "%s"', (
        select pg_catalog.left(k, 200)
        from pg_catalog.jsonb_object_keys(item.value - array['topic', 'event', 'data', 'traceparent']) k limit 1));
      return next;
    elsif pg_catalog.jsonb_typeof(item.value -> 'topic') is distinct from 'string'
          or pg_catalog.jsonb_typeof(item.value -> 'event') is distinct from 'string' then
      message := 'topic and event must be strings';
      return next;
    else
      problem := warden.publish_problem(item.value ->> 'topic', item.value ->> 'event', item.value -> 'data');
      if problem.message is not null then
        message := problem.message;
        hint := problem.hint;
        return next;
      end if;
    end if;
  end loop;
end
$$;

-- Logs events that were checked, and returns their ids in the order of the events. No other caller than the functions
-- that check them has the right to execute it.
create or replace function warden.add_published(org_id uuid, events jsonb)
returns table (index int, id bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  -- No statement can be between two events, so all have the same step, and ids order them.
  step constant bigint := warden.publish_step();
  traceparent constant text := warden.trace_context(pg_catalog.current_setting('warden.traceparent', true));
begin
  return query
    with item as (
      select e.value ->> 'topic' as topic, e.value ->> 'event' as event, e.value -> 'data' as data,
             coalesce(warden.trace_context(e.value ->> 'traceparent'), traceparent) as traceparent, e.ordinality
      from pg_catalog.jsonb_array_elements(add_published.events) with ordinality e),
    claimed as (select distinct w.topic from warden.watches w where w.visibility = 'claim'),
    published as (
      insert into warden.events as l (org_id, topic, event, data, needs_claim, step, ring, traceparent)
      select add_published.org_id, i.topic, i.event, coalesce(i.data, '{}'), i.topic in (select topic from claimed),
             step, i.ordinality = 1, i.traceparent
      from item i order by i.ordinality
      returning l.id)
    select (pg_catalog.row_number() over (order by p.id) - 1)::int, p.id from published p order by p.id;
end
$$;

-- Publishes many events to one organisation, and returns their ids in the order of the events. Either all events are
-- published or none: the error names the first invalid event and how many others are invalid.
--   events  an array of at most 10,000 objects {"topic", "event", "data"}; see warden.publish(). An object may have its
--           own "traceparent".
create or replace function warden.publish_all(org_id uuid, events jsonb)
returns table (index int, id bigint)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set row_security = on as $$
declare
  events_max constant int := 10000;
  problem record;
begin
  perform warden.expect_organization(publish_all.org_id, 'warden.publish_all');
  if pg_catalog.jsonb_typeof(publish_all.events) is distinct from 'array' then
    raise exception 'warden.publish_all: events must be an array'
      using errcode = '22023', hint = 'For example, [{"topic": "invoices", "event": "invoice.paid", "data": {"id": 42}}].';
  end if;
  if pg_catalog.jsonb_array_length(publish_all.events) > events_max then
    raise exception 'warden.publish_all: % events, at most % are allowed',
        pg_catalog.jsonb_array_length(publish_all.events), events_max
      using errcode = '22023', hint = 'Call it several times within one transaction.';
  end if;
  select p.index, p.message, p.hint, pg_catalog.count(*) over () - 1 as others into problem
  from warden.publish_problems(publish_all.events) p order by p.index limit 1;
  if problem.message is not null then
    raise exception 'warden.publish_all: events[%]: %', problem.index, problem.message
      using errcode = '22023', hint = problem.hint,
            detail = pg_catalog.format('Nothing was published. Other events that are not valid: %s.', problem.others);
  end if;
  return query select p.index, p.id from warden.add_published(publish_all.org_id, publish_all.events) p;
end
$$;

-- Takes the arguments of PostgreSQL's pg_notify(), and publishes to the organisation of the caller's claims. So a
-- service that notifies needs another function name only. It returns nothing, as pg_notify() does.
--   channel  a topic; see warden.publish()
--   payload  JSON, or else text, which becomes {"payload": "<text>"}. If it is an object whose field `event` is a
--            string, this is the event's name. Otherwise the name is `notify`.
create or replace function warden.notify(channel text, payload text default '') returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set row_security = on as $$
declare
  organization constant uuid := warden.auth_org_id();
  data jsonb;
begin
  if organization is null then
    raise exception 'warden.notify: this transaction has no claims with an organisation'
      using errcode = '22023',
            hint = 'Set them first: select set_config(''request.jwt.claims'', ''{"app_metadata": {"org_id": "..."}}'', '
                   'true). A service that works for several organisations calls warden.publish(org_id, ...).';
  end if;
  begin
    data := coalesce(nullif(payload, ''), '{}')::jsonb;
  exception when data_exception or statement_too_complex then
    data := pg_catalog.jsonb_build_object('payload', payload);
  end;
  perform warden.publish(
    organization, channel,
    case when pg_catalog.jsonb_typeof(data -> 'event') = 'string' then data ->> 'event' else 'notify' end, data);
end
$$;

grant execute on function warden.publish(uuid, text, text, jsonb), warden.publish_all(uuid, jsonb),
  warden.notify(text, text) to warden_publisher;
reset role;
