-- Calls, and everything known about one call: logs, recordings, sentiment, voicemail.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
do $do$
begin
  -- This file creates its tables once, all of them together. What an operator changed later stays.
  if not (select s.creates_tables from warden.platform_set s) or to_regclass('public.calls') is not null then
    return;
  end if;

  create table public.calls (
    id               uuid primary key default gen_random_uuid(),
    org_id           uuid not null,
    user_id          uuid,
    -- Twilio's CallSid (CA...) and Vapi's call id. Either may be absent.
    twilio_call_sid  text,
    vapi_call_id     text,
    direction        text not null default 'inbound'
                     check (direction in ('inbound', 'outbound-api', 'outbound-dial')),
    from_number      text,
    to_number        text,
    -- Twilio's documented values for the status of a Call.
    status           text not null default 'queued'
                     check (status in ('queued', 'ringing', 'in-progress', 'completed',
                                       'busy', 'failed', 'no-answer', 'canceled')),
    -- Twilio's answering machine detection: human, machine_start, fax, unknown ...
    answered_by      text,
    started_at       timestamptz,
    answered_at      timestamptz,
    ended_at         timestamptz,
    duration_seconds integer check (duration_seconds >= 0),
    -- Vapi's reason for the end of the call, for example customer-ended-call.
    ended_reason     text,
    -- Twilio's error code of a failed call.
    error_code       integer,
    price            numeric(12, 5),
    price_unit       text check (price_unit ~ '^[A-Z]{3}$'),
    assistant_id     text,
    -- Recordings of the call that are stored.
    recording_count  integer not null default 0 check (recording_count >= 0),
    metadata         jsonb not null default '{}',
    created_at       timestamptz not null default now(),
    updated_at       timestamptz not null default now()
  );
  create table public.call_logs (
    id               uuid primary key default gen_random_uuid(),
    org_id           uuid not null,
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
    updated_at       timestamptz not null default now()
  );
  create table public.recordings (
    id                   uuid primary key default gen_random_uuid(),
    org_id               uuid not null,
    call_id              uuid,
    -- Twilio's RecordingSid (RE...).
    twilio_recording_sid text,
    -- Twilio's documented values for the status of a Recording. 'processing' also while it is copied to the object
    -- store, 'completed' when it is there, 'failed' if that is impossible.
    status               text not null default 'in-progress'
                         check (status in ('in-progress', 'paused', 'stopped', 'processing',
                                           'completed', 'absent', 'failed')),
    channels             smallint not null default 1 check (channels in (1, 2)),
    duration_seconds     integer check (duration_seconds >= 0),
    -- Key of the file in the object store. Null until the upload is done.
    storage_path         text,
    size_bytes           bigint check (size_bytes >= 0),
    content_type         text,
    -- SHA-256 of the file, in hexadecimal digits.
    sha256               text check (sha256 ~ '^[0-9a-f]{64}$'),
    created_at           timestamptz not null default now(),
    updated_at           timestamptz not null default now()
  );
  -- One row per recording that must be copied from its provider to the object store. A worker claims due rows of one
  -- organisation at a time (FOR UPDATE SKIP LOCKED) and holds each row until locked_until. If the worker dies,
  -- the row becomes due again at that time. 'failed' is final: `warden worker jobs --retry` makes it pending again.
  create table public.recording_upload_queue (
    id              uuid primary key default gen_random_uuid(),
    org_id          uuid not null,
    recording_id    uuid not null,
    -- 'twilio', 'vapi', and the account whose credentials open source_url.
    provider        text,
    account         text,
    source_url      text not null,
    state           text not null default 'pending' check (state in ('pending', 'uploading', 'done', 'failed')),
    attempts        integer not null default 0 check (attempts >= 0),
    next_attempt_at timestamptz not null default now(),
    locked_by       text,
    locked_until    timestamptz,
    last_error      text,
    storage_key     text,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    constraint recording_upload_queue_locked
                   check ((state = 'uploading') = (locked_by is not null and locked_until is not null)),
    constraint recording_upload_queue_stored check (state <> 'done' or storage_key is not null)
  );
  create table public.sentiment_analysis (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    call_log_id  uuid not null,
    label        text not null default 'neutral' check (label in ('positive', 'neutral', 'negative', 'mixed')),
    score        real not null default 0 check (score between -1 and 1),
    -- One element per turn of the conversation: speaker, score, seconds since the start.
    turns        jsonb not null default '[]',
    model        text,
    created_at   timestamptz not null default now()
  );
  create table public.voicemail_audit_log (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    call_id      uuid not null,
    action       text not null check (action in ('detected', 'message_left', 'hung_up', 'misdetected')),
    -- The detector of Twilio or Vapi, and its confidence from 0 to 1.
    detector     text,
    confidence   real check (confidence between 0 and 1),
    created_at   timestamptz not null default now()
  );
  create table public.user_active_calls (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    user_id      uuid not null,
    call_id      uuid not null,
    started_at   timestamptz not null default now(),
    last_seen_at timestamptz not null default now()
  );

  perform warden.create_tenant_objects(array[
    'public.calls', 'public.call_logs', 'public.recordings', 'public.recording_upload_queue',
    'public.sentiment_analysis', 'public.voicemail_audit_log', 'public.user_active_calls']::regclass[],
    on_parent_delete => ' on delete cascade');
  perform warden.grant_to_requests(array[
    'public.calls', 'public.call_logs', 'public.recordings',
    'public.sentiment_analysis', 'public.user_active_calls']::regclass[], may_write => true);
  -- Only back ends write these.
  perform warden.grant_to_requests(array[
    'public.recording_upload_queue', 'public.voicemail_audit_log']::regclass[], may_write => false);

  perform warden.watch('public.calls', 'calls', 'call', entity_topic => 'call');
  perform warden.watch('public.call_logs', 'call_logs', 'call_log',
                       entity_topic => 'call', entity_topic_column => 'call_id');
  perform warden.watch('public.recordings', 'recordings', 'recording',
                       entity_topic => 'call', entity_topic_column => 'call_id');
  perform warden.enable_recordings('public.recordings', 'public.recording_upload_queue', 'public.calls');
end
$do$;
