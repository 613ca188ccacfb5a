-- Rows of the legacy database, scaled by a factor: 1 gives a million call logs, and a hundred thousand rows in calls,
-- leads, contacts, campaign_leads and usage_events. {factor} is replaced before this runs.
--
-- The rows belong to 2,000 users. Users 1 to 20 belong to an organisation, and user 7 to two. Every 50th row has no
-- user, and every 40th child has no parent.

insert into organizations (id, name) values
  (legacy_id('org', 1), 'Northwind'), (legacy_id('org', 2), 'Contoso');
insert into organization_members (org_id, user_id, created_at)
select legacy_id('org', 1 + n % 2), legacy_id('user', n), '2024-01-01' from generate_series(1, 20) n;
-- User 7's other membership is newer, so it does not count.
insert into organization_members values (legacy_id('org', 1), legacy_id('user', 7), '2024-06-01');

create temp table sized as
select greatest(40, round(1000000 * f))::bigint as million, greatest(20, round(100000 * f))::bigint as large,
       greatest(10, round(5000 * f))::bigint as small
from (values ({factor}::float8)) v(f);

-- The user of the n-th row; null for every 50th row.
create function pg_temp.owner_of(n bigint) returns uuid language sql immutable as $$
  select case when n % 50 <> 0 then legacy_id('user', 1 + n % 2000) end
$$;
-- The parent of the n-th row, out of a number of parents; null for every 40th row.
create function pg_temp.parent_of(kind text, n bigint, parents bigint) returns uuid language sql immutable as $$
  select case when n % 40 <> 0 then legacy_id(kind, 1 + n % parents) end
$$;

insert into calls (id, user_id, status, twilio_call_sid, from_number, started_at, updated_at)
select legacy_id('call', n), pg_temp.owner_of(n), 'completed', 'CA' || n, '+1555' || n, '2024-02-01', '2024-02-02'
from sized, generate_series(1, large) n;
insert into call_logs (id, user_id, call_id, vapi_call_id, summary, duration_seconds, updated_at)
select legacy_id('log', n), pg_temp.owner_of(n), pg_temp.parent_of('call', n, large),
       case when n % 3 > 0 then 'vapi-' || n end, 'A call about matter ' || n, n % 600, '2024-02-02'
from sized, generate_series(1, million) n;
insert into recordings (id, call_id, storage_path)
select legacy_id('rec', n), legacy_id('call', n), 'r/' || n from sized, generate_series(1, small) n;
insert into recording_upload_queue (recording_id)
select pg_temp.parent_of('rec', n, small) from sized, generate_series(1, small) n;
insert into voicemail_audit_log (call_id, note)
select pg_temp.parent_of('call', n, small), 'heard' from sized, generate_series(1, small) n;
insert into sentiment_analysis (id, call_log_id, score)
select legacy_id('sent', n), pg_temp.parent_of('log', n, large), 0.5 from sized, generate_series(1, small) n;
insert into user_active_calls (id, user_id, call_id)
select legacy_id('active', n), legacy_id('user', n), pg_temp.parent_of('call', n, large)
from sized, generate_series(1, small) n;

insert into leads (id, user_id, phone, updated_at)
select legacy_id('lead', n), pg_temp.owner_of(n), '+1666' || n, '2024-02-02' from sized, generate_series(1, large) n;
insert into cold_call_logs (id, user_id, lead_id, outcome)
select legacy_id('cold', n), pg_temp.owner_of(n), pg_temp.parent_of('lead', n, large), 'no answer'
from sized, generate_series(1, small) n;
insert into contacts (id, user_id, email, name, updated_at)
select legacy_id('contact', n), pg_temp.owner_of(n), n || '@example.com', 'Contact ' || n, '2024-02-02'
from sized, generate_series(1, large) n;
insert into consent_records (id, contact_id)
select legacy_id('consent', n), pg_temp.parent_of('contact', n, large) from sized, generate_series(1, small) n;
insert into campaigns (id, user_id, name)
select legacy_id('campaign', n), pg_temp.owner_of(n), 'Campaign ' || n from sized, generate_series(1, small) n;
insert into campaign_leads (id, campaign_id, lead_id)
select legacy_id('clead', n), pg_temp.parent_of('campaign', n, small), legacy_id('lead', n)
from sized, generate_series(1, large) n;
insert into campaign_phone_numbers (id, campaign_id, number)
select legacy_id('cnumber', n), pg_temp.parent_of('campaign', n, small), '+1777' || n
from sized, generate_series(1, small) n;
insert into campaign_summaries select legacy_id('campaign', n), 'Summary' from sized, generate_series(1, small) n;

insert into knowledge_base (id, user_id, title)
select legacy_id('kb', n), pg_temp.owner_of(n), 'KB ' || n from sized, generate_series(1, small) n;
insert into knowledge_base_changelog (knowledge_base_id, change)
select pg_temp.parent_of('kb', n, small), 'edit' from sized, generate_series(1, small) n;
insert into kb_sync_log (knowledge_base_id)
select pg_temp.parent_of('kb', n, small) from sized, generate_series(1, small) n;
insert into knowledge_base_documents (id, user_id, knowledge_base_id, title)
select legacy_id('doc', n), pg_temp.owner_of(n), pg_temp.parent_of('kb', n, small), 'Document ' || n
from sized, generate_series(1, small) n;
insert into knowledge_base_chunks (id, document_id, body)
select legacy_id('chunk', n), pg_temp.parent_of('doc', n, small), 'Chunk ' || n from sized, generate_series(1, small) n;
insert into embeddings (id, chunk_id, vector)
select legacy_id('vector', n), pg_temp.parent_of('chunk', n, small), '{0,1}' from sized, generate_series(1, small) n;

insert into payments (id, user_id, cents)
select legacy_id('payment', n), pg_temp.owner_of(n), n from sized, generate_series(1, small) n;
insert into payment_events_log (payment_id, kind)
select pg_temp.parent_of('payment', n, small), 'paid' from sized, generate_series(1, small) n;
insert into user_phone_numbers (id, user_id, number)
select legacy_id('phone', n), legacy_id('user', 1 + n % 2000), '+1888' || n from sized, generate_series(1, small) n;

insert into usage_events (user_id, label)
select pg_temp.owner_of(n), 'minute'
from sized, generate_series(1, large) n;
do $$
declare
  t record;
begin
  for t in
    select c.relname, a.atttypid = 'uuid'::regtype as by_uuid
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'id'
    join pg_attribute b on b.attrelid = c.oid and b.attname = 'body' and b.atttypid = 'jsonb'::regtype
    where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace and c.relname <> 'usage_events'
    order by c.relname
  loop
    execute format('insert into %1$I (%2$s user_id, label)
                    select %3$s pg_temp.owner_of(n), %1$L from sized, generate_series(1, small) n',
      t.relname, case when t.by_uuid then 'id,' end,
      case when t.by_uuid then format('legacy_id(%L, n),', t.relname) end);
  end loop;
end
$$;
drop table sized;
