-- The tables of a voice-call platform that Warden watches out of the box: what Twilio (telephony)
-- and Vapi (assistants) report about a call, and the recordings made of it.
--
-- Children reference their call by (org_id, call_id): foreign-key checks ignore row-level security,
-- so with call_id alone a row could point into another organisation.

create table public.calls (
  id               uuid primary key default gen_random_uuid(),
  org_id           uuid not null references public.organizations (id) on delete cascade,
  user_id          uuid,
  -- Twilio's CallSid (CA...) and Vapi's call id; either may be absent.
  twilio_call_sid  text,
  vapi_call_id     text,
  direction        text not null default 'inbound'
                   check (direction in ('inbound', 'outbound-api', 'outbound-dial')),
  from_number      text,
  to_number        text,
  -- The values that Twilio documents for the status of a Call.
  status           text not null default 'queued'
                   check (status in ('queued', 'ringing', 'in-progress', 'completed',
                                     'busy', 'failed', 'no-answer', 'canceled')),
  -- human, machine_start, fax, unknown ... (Twilio's answering machine detection)
  answered_by      text,
  started_at       timestamptz,
  answered_at      timestamptz,
  ended_at         timestamptz,
  duration_seconds integer check (duration_seconds >= 0),
  -- Why the assistant ended it, in Vapi's words, e.g. customer-ended-call.
  ended_reason     text,
  -- Twilio's error code of a failed call.
  error_code       integer,
  price            numeric(12, 5),
  price_unit       text check (price_unit ~ '^[A-Z]{3}$'),
  assistant_id     text,
  metadata         jsonb not null default '{}',
  created_at       timestamptz not null default now(),
  updated_at       timestamptz not null default now(),
  unique (org_id, id)
);
create unique index idx_calls_org_twilio_call_sid on public.calls (org_id, twilio_call_sid);
create index idx_calls_org_created on public.calls (org_id, created_at desc);

create table public.call_logs (
  id               uuid primary key default gen_random_uuid(),
  org_id           uuid not null references public.organizations (id) on delete cascade,
  user_id          uuid,
  call_id          uuid,
  vapi_call_id     text,
  summary          text,
  transcript       text,
  -- -1 (negative) to 1 (positive).
  sentiment        real check (sentiment between -1 and 1),
  success          boolean,
  cost             numeric(12, 5),
  duration_seconds integer check (duration_seconds >= 0),
  metadata         jsonb not null default '{}',
  created_at       timestamptz not null default now(),
  updated_at       timestamptz not null default now(),
  foreign key (org_id, call_id) references public.calls (org_id, id) on delete cascade
);
create unique index idx_call_logs_org_vapi_call_id on public.call_logs (org_id, vapi_call_id);
create index idx_call_logs_org_call on public.call_logs (org_id, call_id);
create index idx_call_logs_org_created on public.call_logs (org_id, created_at desc);

create table public.recordings (
  id                   uuid primary key default gen_random_uuid(),
  org_id               uuid not null references public.organizations (id) on delete cascade,
  call_id              uuid,
  -- Twilio's RecordingSid (RE...).
  twilio_recording_sid text,
  -- The values that Twilio documents for the status of a Recording.
  status               text not null default 'in-progress'
                       check (status in ('in-progress', 'paused', 'stopped', 'processing',
                                         'completed', 'absent')),
  channels             smallint not null default 1 check (channels in (1, 2)),
  duration_seconds     integer check (duration_seconds >= 0),
  -- Where the file lies in the object store, once it was uploaded there.
  storage_path         text,
  size_bytes           bigint check (size_bytes >= 0),
  created_at           timestamptz not null default now(),
  updated_at           timestamptz not null default now(),
  foreign key (org_id, call_id) references public.calls (org_id, id) on delete cascade
);
create unique index idx_recordings_org_twilio_sid on public.recordings (org_id, twilio_recording_sid);
create index idx_recordings_org_call on public.recordings (org_id, call_id);
create index idx_recordings_org_created on public.recordings (org_id, created_at desc);

-- Organisations first: a gateway learns from the log that one was created or deleted.
select warden.watch('public.organizations', 'org', 'org', org_column => 'id');
select warden.watch('public.calls', 'calls', 'call', call_column => 'id');
select warden.watch('public.call_logs', 'call_logs', 'call_log', call_column => 'call_id');
select warden.watch('public.recordings', 'recordings', 'recording', call_column => 'call_id');
