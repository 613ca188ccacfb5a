-- Publishing for back ends, inside the caller's own transaction: an event exists if and only if that transaction
-- commits.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Publishes an event to an organisation, and returns its id. Invalid arguments give an error with SQLSTATE 22023.
--   topic  a name in warden.topics, or <kind>:<id> with a kind in warden.entity_topics
--   event  e.g. 'invoice.paid'; names that start with warden., org. or phx_ are reserved
--   data   at most 65,536 bytes of JSON text
create or replace function warden.publish(org_id uuid, topic text, event text, data jsonb default '{}')
returns bigint
language plpgsql volatile security definer set search_path = '' set row_security = on as $$
declare
  data_bytes_max constant int := 65536;
  published bigint;
begin
  if publish.org_id is null
     or not exists (select from public.organizations o where o.id = publish.org_id) then
    raise exception 'warden.publish: organisation % does not exist', coalesce(publish.org_id::text, 'null')
      using errcode = '22023', hint = 'org_id is the id of a row in public.organizations.';
  end if;
  if not exists (select from warden.topics t where t.name = publish.topic)
     and not exists (select from warden.entity_topics t
                     where t.kind = pg_catalog.split_part(publish.topic, ':', 1)
                       and warden.is_entity_id(
                         t.id_type, pg_catalog.substr(publish.topic, pg_catalog.length(t.kind) + 2))) then
    raise exception 'warden.publish: topic "%" does not exist', publish.topic
      using errcode = '22023',
            hint = 'Declare it once: select warden.declare_topic(''name''); for topics of single entities (kind:id): '
                   'select warden.declare_entity_topic(''kind'', ''uuid''). Each id has one spelling: write a uuid in '
                   'lower case.';
  end if;
  if publish.event is null or publish.event !~ '^[A-Za-z][A-Za-z0-9_.:-]{0,126}$'
     or publish.event ~ '^(warden[.]|org[.]|phx_)' then
    raise exception 'warden.publish: event name "%" is not valid', publish.event
      using errcode = '22023',
            hint = 'Use up to 127 letters, digits and _ . : - starting with a letter; '
                   'warden., org. and phx_ are reserved.';
  end if;
  -- Neither a compressed value nor a long number is unfolded, only to be rejected.
  if pg_catalog.pg_column_size(publish.data) > 6 * data_bytes_max
     or pg_catalog.pg_column_compression(publish.data) is not null
        and pg_catalog.pg_column_size(array[publish.data]) > 6 * data_bytes_max then
    raise exception 'warden.publish: data has too many bytes, at most % are allowed', data_bytes_max
      using errcode = '22023', hint = 'Publish a reference, and let clients fetch the data.';
  end if;
  if pg_catalog.jsonb_path_exists(publish.data, '$.**{500}') or not warden.has_short_numbers(publish.data) then
    raise exception 'warden.publish: data is nested more than 500 levels deep, or has a number of more than 400 digits'
      using errcode = '22023', hint = 'Publish long numbers as strings.';
  end if;
  -- The size as text, because clients get text.
  if pg_catalog.octet_length(publish.data::text) > data_bytes_max then
    raise exception 'warden.publish: data has % bytes, at most % are allowed',
        pg_catalog.octet_length(publish.data::text), data_bytes_max
      using errcode = '22023', hint = 'Publish a reference, and let clients fetch the data.';
  end if;
  insert into warden.events (org_id, topic, event, data, needs_claim, step)
  values (publish.org_id, publish.topic, publish.event, coalesce(publish.data, '{}'),
          exists (select from warden.watches w where w.topic = publish.topic and w.visibility = 'claim'),
          warden.publish_step())
  returning id into published;
  return published;
end
$$;

grant execute on function warden.publish(uuid, text, text, jsonb) to warden_publisher;
reset role;
