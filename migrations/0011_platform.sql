-- The tables of a voice-call platform: what Twilio (telephony) and Vapi (assistants) report about a call,
-- the recordings made of it, and what such a product keeps around them. They are made in an empty database
-- only. On tables that are there already nothing is done here: `warden migrate` adopts them online.

set local lock_timeout = '5s';
set local statement_timeout = '5min';
-- Queries that such a product makes, all within one organisation: newest first, by state, by the id that
-- a provider's webhook names. (Those along a parent follow from the registry.)
insert into warden.tenant_indexes (table_name, index_name, key_columns, is_unique) values
  ('organization_members',   'idx_organization_members_org_user_id',         '{org_id,user_id}',                  true),
  ('calls',                  'idx_calls_org_created',                        '{org_id,created_at desc}',          false),
  ('calls',                  'idx_calls_org_status_created',                 '{org_id,status,created_at desc}',   false),
  ('calls',                  'idx_calls_org_twilio_call_sid',                '{org_id,twilio_call_sid}',          true),
  ('calls',                  'idx_calls_org_vapi_call_id',                   '{org_id,vapi_call_id}',             false),
  ('call_logs',              'idx_call_logs_org_vapi_call_id',               '{org_id,vapi_call_id}',             true),
  ('call_logs',              'idx_call_logs_org_created',                    '{org_id,created_at desc}',          false),
  ('recordings',             'idx_recordings_org_twilio_sid',                '{org_id,twilio_recording_sid}',     true),
  ('recordings',             'idx_recordings_org_created',                   '{org_id,created_at desc}',          false),
  ('recording_upload_queue', 'idx_recording_upload_queue_org_recording_id',  '{org_id,recording_id}',             true),
  ('recording_upload_queue', 'idx_recording_upload_queue_org_due',           '{org_id,state,next_attempt_at}',    false),
  ('leads',                  'idx_leads_org_status_created',                 '{org_id,status,created_at desc}',   false),
  ('leads',                  'idx_leads_org_phone_number',                   '{org_id,phone_number}',             false),
  ('contacts',               'idx_contacts_org_phone_number',                '{org_id,phone_number}',             false),
  ('campaigns',              'idx_campaigns_org_status',                     '{org_id,status}',                   false),
  ('campaign_leads',         'idx_campaign_leads_org_campaign_id_status',    '{org_id,campaign_id,status}',       false),
  ('cold_call_logs',         'idx_cold_call_logs_org_created',               '{org_id,created_at desc}',          false),
  ('dnc_list',               'idx_dnc_list_org_phone_number',                '{org_id,phone_number}',             true),
  ('user_phone_numbers',     'idx_user_phone_numbers_org_phone_number',      '{org_id,phone_number}',             false),
  ('phone_assistants',       'idx_phone_assistants_org_vapi_assistant_id',   '{org_id,vapi_assistant_id}',        false),
  ('knowledge_base_changelog', 'idx_knowledge_base_changelog_org_created',   '{org_id,created_at desc}',          false),
  ('compliance_audit_logs',  'idx_compliance_audit_logs_org_created',        '{org_id,created_at desc}',          false),
  ('telephony_audit_log',    'idx_telephony_audit_log_org_created',          '{org_id,created_at desc}',          false),
  ('credit_transactions',    'idx_credit_transactions_org_created',          '{org_id,created_at desc}',          false),
  ('payments',               'idx_payments_org_created',                     '{org_id,created_at desc}',          false),
  ('usage_events',           'idx_usage_events_org_type_occurred',           '{org_id,event_type,occurred_at desc}', false),
  ('usage_events',           'idx_usage_events_org_occurred',                '{org_id,occurred_at desc}',         false),
  ('usage_records',          'idx_usage_records_org_period',                 '{org_id,period_start desc}',        false),
  ('billing_cycles',         'idx_billing_cycles_org_period',                '{org_id,period_start desc}',        false),
  ('notification_history',   'idx_notification_history_org_created',         '{org_id,created_at desc}',          false),
  ('notification_rate_limits', 'idx_notification_rate_limits_org_channel',   '{org_id,channel,window_start desc}', false);

do $do$
begin
  -- Empty: it holds no table but those that Warden made just now. (Tables of extensions don't count.)
  if exists (
    select from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'f', 'v', 'm')
      and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
      and coalesce(obj_description(c.oid, 'pg_class'), '') not like '%(made by Warden)'
  ) then
    raise notice 'schema public holds tables already: none of the platform''s is made';
    return;
  end if;

  -- Calls, and what is known of them.
  create table public.calls (
    id               uuid primary key default gen_random_uuid(),
    org_id           uuid not null,
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
    updated_at           timestamptz not null default now()
  );
  -- One row per recording that is to be copied from Twilio to the object store. A worker takes due rows of
  -- one organisation at a time (for update skip locked), and holds each until locked_until: if it
  -- dies, the row is due again.
  create table public.recording_upload_queue (
    id              uuid primary key default gen_random_uuid(),
    org_id          uuid not null,
    recording_id    uuid not null,
    state           text not null default 'pending' check (state in ('pending', 'uploading', 'done', 'failed')),
    attempts        integer not null default 0 check (attempts >= 0),
    next_attempt_at timestamptz not null default now(),
    locked_by       text,
    locked_until    timestamptz,
    last_error      text,
    storage_key     text,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    constraint recording_upload_queue_locked check ((state = 'uploading') = (locked_by is not null and locked_until is not null)),
    constraint recording_upload_queue_stored check (state <> 'done' or storage_key is not null)
  );
  create table public.sentiment_analysis (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    call_log_id  uuid not null,
    label        text not null default 'neutral' check (label in ('positive', 'neutral', 'negative', 'mixed')),
    score        real not null default 0 check (score between -1 and 1),
    -- Per turn of the conversation: speaker, score, seconds from the start.
    turns        jsonb not null default '[]',
    model        text,
    created_at   timestamptz not null default now()
  );
  create table public.voicemail_audit_log (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    call_id      uuid not null,
    action       text not null check (action in ('detected', 'message_left', 'hung_up', 'misdetected')),
    -- How Twilio or Vapi came to it, and how sure it was (0 to 1).
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

  -- People who are called.
  create table public.contacts (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    user_id      uuid,
    phone_number text check (phone_number ~ '^\+[1-9][0-9]{6,14}$'),
    full_name    text,
    email        text,
    time_zone    text,
    attributes   jsonb not null default '{}',
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now()
  );
  create table public.consent_records (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    contact_id   uuid not null,
    kind         text not null default 'call' check (kind in ('call', 'recording', 'sms', 'marketing')),
    is_given     boolean not null,
    -- Where it was given or withdrawn: a form, a call, a letter.
    source       text,
    given_at     timestamptz not null default now(),
    expires_at   timestamptz,
    check (expires_at > given_at)
  );
  create table public.leads (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    user_id      uuid,
    phone_number text check (phone_number ~ '^\+[1-9][0-9]{6,14}$'),
    full_name    text,
    email        text,
    company      text,
    status       text not null default 'new' check (status in ('new', 'contacted', 'qualified', 'converted', 'lost')),
    score        smallint check (score between 0 and 100),
    source       text,
    attributes   jsonb not null default '{}',
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now()
  );
  create table public.daily_lead_uploads (
    id            uuid primary key default gen_random_uuid(),
    org_id        uuid not null,
    user_id       uuid,
    file_name     text,
    uploaded_on   date not null default current_date,
    rows_read     integer not null default 0 check (rows_read >= 0),
    rows_accepted integer not null default 0 check (rows_accepted >= 0),
    errors        jsonb not null default '[]',
    created_at    timestamptz not null default now(),
    check (rows_accepted <= rows_read)
  );
  create table public.dnc_list (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    user_id      uuid,
    phone_number text not null check (phone_number ~ '^\+[1-9][0-9]{6,14}$'),
    reason       text,
    -- A national register, the person, or a law.
    source       text not null default 'person' check (source in ('person', 'register', 'legal')),
    created_at   timestamptz not null default now()
  );
  create table public.cold_call_logs (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    user_id      uuid,
    lead_id      uuid,
    call_id      uuid,
    outcome      text check (outcome in ('reached', 'voicemail', 'no_answer', 'refused', 'callback', 'wrong_number')),
    notes        text,
    callback_at  timestamptz,
    created_at   timestamptz not null default now()
  );
  create table public.call_lists (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    user_id      uuid,
    name         text not null check (length(name) between 1 and 200),
    -- Which contacts it holds: a filter, resolved when calls are made.
    filter       jsonb not null default '{}',
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now()
  );

  -- Campaigns.
  create table public.campaigns (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    user_id      uuid,
    name         text not null check (length(name) between 1 and 200),
    status       text not null default 'draft' check (status in ('draft', 'scheduled', 'running', 'paused', 'finished')),
    assistant_id text,
    -- When calls may be made, in the contact's time zone.
    calling_from time not null default '09:00',
    calling_to   time not null default '18:00',
    starts_at    timestamptz,
    ends_at      timestamptz,
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),
    check (ends_at > starts_at)
  );
  create table public.campaign_leads (
    id              uuid primary key default gen_random_uuid(),
    org_id          uuid not null,
    campaign_id     uuid not null,
    lead_id         uuid,
    status          text not null default 'pending' check (status in ('pending', 'calling', 'done', 'skipped', 'failed')),
    attempts        integer not null default 0 check (attempts >= 0),
    next_attempt_at timestamptz,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now()
  );
  create table public.campaign_phone_numbers (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    campaign_id  uuid not null,
    phone_number text not null check (phone_number ~ '^\+[1-9][0-9]{6,14}$'),
    -- Calls that this number may make in a day, so that it is not marked as spam.
    daily_limit  integer not null default 100 check (daily_limit > 0),
    created_at   timestamptz not null default now()
  );
  create table public.campaign_summaries (
    id               uuid primary key default gen_random_uuid(),
    org_id           uuid not null,
    campaign_id      uuid not null,
    calls_made       integer not null default 0 check (calls_made >= 0),
    calls_answered   integer not null default 0 check (calls_answered between 0 and calls_made),
    duration_seconds bigint not null default 0 check (duration_seconds >= 0),
    cost             numeric(14, 5) not null default 0,
    computed_at      timestamptz not null default now()
  );

  -- What assistants know and how they behave.
  create table public.agent_configurations (
    id                uuid primary key default gen_random_uuid(),
    org_id            uuid not null,
    user_id           uuid,
    name              text not null default 'assistant' check (length(name) between 1 and 200),
    vapi_assistant_id text,
    system_prompt     text,
    voice             jsonb not null default '{}',
    model             jsonb not null default '{}',
    max_call_seconds  integer not null default 600 check (max_call_seconds between 10 and 43200),
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now()
  );
  create table public.knowledge_base (
    id          uuid primary key default gen_random_uuid(),
    org_id      uuid not null,
    user_id     uuid,
    name        text not null check (length(name) between 1 and 200),
    description text,
    is_active   boolean not null default true,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now()
  );
  create table public.knowledge_base_documents (
    id                uuid primary key default gen_random_uuid(),
    org_id            uuid not null,
    user_id           uuid,
    knowledge_base_id uuid not null,
    title             text not null,
    source_url        text,
    mime_type         text,
    size_bytes        bigint check (size_bytes >= 0),
    sha256            bytea check (octet_length(sha256) = 32),
    status            text not null default 'pending' check (status in ('pending', 'processed', 'failed')),
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now()
  );
  create table public.knowledge_base_chunks (
    id          uuid primary key default gen_random_uuid(),
    org_id      uuid not null,
    document_id uuid not null,
    position    integer not null check (position >= 0),
    content     text not null,
    token_count integer check (token_count >= 0),
    created_at  timestamptz not null default now()
  );
  create table public.embeddings (
    id         uuid primary key default gen_random_uuid(),
    org_id     uuid not null,
    chunk_id   uuid not null,
    model      text not null,
    -- An array, so that no extension is needed.
    embedding  real[] not null check (cardinality(embedding) between 1 and 4096),
    created_at timestamptz not null default now()
  );
  create table public.knowledge_base_changelog (
    id                uuid primary key default gen_random_uuid(),
    org_id            uuid not null,
    knowledge_base_id uuid not null,
    actor_id          uuid,
    change            text not null check (change in ('created', 'updated', 'deleted', 'synced')),
    details           jsonb not null default '{}',
    created_at        timestamptz not null default now()
  );
  create table public.kb_sync_log (
    id                uuid primary key default gen_random_uuid(),
    org_id            uuid not null,
    knowledge_base_id uuid not null,
    status            text not null default 'running' check (status in ('running', 'succeeded', 'failed')),
    documents_synced  integer not null default 0 check (documents_synced >= 0),
    error             text,
    started_at        timestamptz not null default now(),
    finished_at       timestamptz,
    check ((finished_at is null) = (status = 'running'))
  );

  -- Telephony: numbers, accounts, and the keys to them.
  create table public.user_phone_numbers (
    id            uuid primary key default gen_random_uuid(),
    org_id        uuid not null,
    user_id       uuid not null,
    phone_number  text not null check (phone_number ~ '^\+[1-9][0-9]{6,14}$'),
    -- Twilio's sid of an IncomingPhoneNumber (PN...).
    twilio_sid    text,
    friendly_name text,
    is_active     boolean not null default true,
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now()
  );
  create table public.phone_assistants (
    id                uuid primary key default gen_random_uuid(),
    org_id            uuid not null,
    user_id           uuid,
    phone_number      text,
    vapi_assistant_id text not null,
    created_at        timestamptz not null default now()
  );
  create table public.user_twilio_subaccounts (
    id            uuid primary key default gen_random_uuid(),
    org_id        uuid not null,
    user_id       uuid not null,
    account_sid   text not null check (account_sid ~ '^AC[0-9a-f]{32}$'),
    status        text not null default 'active' check (status in ('active', 'suspended', 'closed')),
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now()
  );
  -- Secrets are stored encrypted, by a key that is not in the database.
  create table public.customer_twilio_keys (
    id                uuid primary key default gen_random_uuid(),
    org_id            uuid not null,
    user_id           uuid,
    account_sid       text not null check (account_sid ~ '^AC[0-9a-f]{32}$'),
    api_key_sid       text not null check (api_key_sid ~ '^SK[0-9a-f]{32}$'),
    secret_ciphertext bytea not null,
    key_version       integer not null default 1,
    created_at        timestamptz not null default now()
  );
  create table public.credential_tokens (
    id               uuid primary key default gen_random_uuid(),
    org_id           uuid not null,
    user_id          uuid,
    provider         text not null,
    token_ciphertext bytea not null,
    key_version      integer not null default 1,
    scopes           text[] not null default '{}',
    expires_at       timestamptz,
    created_at       timestamptz not null default now()
  );
  create table public.telephony_audit_log (
    id         bigint generated always as identity primary key,
    org_id     uuid not null,
    user_id    uuid,
    action     text not null,
    target_sid text,
    details    jsonb not null default '{}',
    created_at timestamptz not null default now()
  );
  create table public.compliance_audit_logs (
    id         bigint generated always as identity primary key,
    org_id     uuid not null,
    user_id    uuid,
    rule       text not null,
    result     text not null check (result in ('passed', 'blocked', 'warned')),
    subject    text,
    details    jsonb not null default '{}',
    created_at timestamptz not null default now()
  );

  -- Money and use.
  create table public.billing_cycles (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    user_id      uuid,
    period_start date not null,
    period_end   date not null,
    status       text not null default 'open' check (status in ('open', 'invoiced', 'paid', 'void')),
    total        numeric(14, 4) not null default 0,
    currency     text not null default 'USD' check (currency ~ '^[A-Z]{3}$'),
    created_at   timestamptz not null default now(),
    check (period_end > period_start)
  );
  create table public.payments (
    id                  uuid primary key default gen_random_uuid(),
    org_id              uuid not null,
    user_id             uuid,
    provider_payment_id text,
    amount              numeric(14, 4) not null check (amount > 0),
    currency            text not null default 'USD' check (currency ~ '^[A-Z]{3}$'),
    status              text not null default 'pending' check (status in ('pending', 'succeeded', 'failed', 'refunded')),
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now()
  );
  create table public.payment_events_log (
    id                bigint generated always as identity primary key,
    org_id            uuid not null,
    payment_id        uuid,
    provider_event_id text,
    event_type        text not null,
    payload           jsonb not null default '{}',
    received_at       timestamptz not null default now()
  );
  create table public.credit_transactions (
    id         uuid primary key default gen_random_uuid(),
    org_id     uuid not null,
    user_id    uuid,
    -- What was bought is positive, what was used negative.
    amount     numeric(14, 4) not null check (amount <> 0),
    reason     text not null default 'usage' check (reason in ('purchase', 'usage', 'refund', 'adjustment')),
    -- The call that was paid for; an entry outlives it, so nothing is referenced.
    call_id    uuid,
    created_at timestamptz not null default now()
  );
  create table public.usage_events (
    id          bigint generated always as identity primary key,
    org_id      uuid not null,
    user_id     uuid,
    event_type  text not null,
    quantity    numeric(14, 4) not null default 1 check (quantity >= 0),
    unit        text not null default 'call' check (unit in ('call', 'second', 'minute', 'token', 'character', 'message')),
    occurred_at timestamptz not null default now()
  );
  create table public.usage_records (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    user_id      uuid,
    metric       text not null,
    quantity     numeric(18, 4) not null default 0 check (quantity >= 0),
    period_start timestamptz not null,
    period_end   timestamptz not null,
    check (period_end > period_start)
  );

  -- Notifications, and the first steps of a customer.
  create table public.notification_templates (
    id         uuid primary key default gen_random_uuid(),
    org_id     uuid not null,
    user_id    uuid,
    channel    text not null default 'email' check (channel in ('email', 'sms', 'push', 'webhook')),
    name       text not null,
    subject    text,
    body       text not null default '',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
  );
  create table public.notification_history (
    id         bigint generated always as identity primary key,
    org_id     uuid not null,
    user_id    uuid,
    channel    text not null default 'email' check (channel in ('email', 'sms', 'push', 'webhook')),
    recipient  text not null,
    status     text not null default 'queued' check (status in ('queued', 'sent', 'delivered', 'bounced', 'failed')),
    error      text,
    created_at timestamptz not null default now()
  );
  create table public.notification_rate_limits (
    id             uuid primary key default gen_random_uuid(),
    org_id         uuid not null,
    user_id        uuid,
    channel        text not null default 'email' check (channel in ('email', 'sms', 'push', 'webhook')),
    window_start   timestamptz not null default now(),
    window_seconds integer not null default 3600 check (window_seconds > 0),
    sent           integer not null default 0 check (sent >= 0)
  );
  create table public.onboarding_events (
    id         bigint generated always as identity primary key,
    org_id     uuid not null,
    user_id    uuid,
    step       text not null,
    payload    jsonb not null default '{}',
    created_at timestamptz not null default now()
  );

  -- These stay the user's.
  create table public.user_credits (
    user_id    uuid primary key,
    balance    numeric(14, 4) not null default 0,
    updated_at timestamptz not null default now()
  );
  create table public.user_subscriptions (
    id                       uuid primary key default gen_random_uuid(),
    user_id                  uuid not null,
    plan                     text not null,
    status                   text not null default 'active' check (status in ('trialing', 'active', 'past_due', 'canceled')),
    provider_subscription_id text,
    current_period_end       timestamptz,
    created_at               timestamptz not null default now(),
    updated_at               timestamptz not null default now()
  );
  create index user_subscriptions_user on public.user_subscriptions (user_id);
  create table public.customers (
    id                   uuid primary key default gen_random_uuid(),
    user_id              uuid not null unique,
    provider_customer_id text,
    billing_email        text,
    created_at           timestamptz not null default now()
  );

  -- Keys, indexes, guards and policies, as the registry says. A child goes with its parent.
  perform warden.enact(
    (select array_agg(format('%I.%I', t.schema_name, t.table_name)::regclass) from warden.tenant_tables t),
    on_parent_delete => ' on delete cascade');
  -- References besides those by which org_id is inherited; with org_id in them, for the same reason.
  alter table public.campaign_leads add constraint campaign_leads_org_id_lead_id_fkey
    foreign key (org_id, lead_id) references public.leads (org_id, id) on delete cascade;
  create index idx_campaign_leads_org_lead_id on public.campaign_leads (org_id, lead_id);
  alter table public.cold_call_logs add constraint cold_call_logs_org_id_call_id_fkey
    foreign key (org_id, call_id) references public.calls (org_id, id) on delete cascade;
  create index idx_cold_call_logs_org_call_id on public.cold_call_logs (org_id, call_id);

  -- As on Supabase (whose default rights are taken back first): rights on whole tables, and row-level security says which rows. Without a token,
  -- nothing. What decides about access or about money is the backend's to write.
  execute (select format('revoke all on %1$s from anon, authenticated; grant select, insert, update, delete on %1$s to service_role; grant select on %1$s to authenticated; ',
                         string_agg(format('%I.%I', t.schema_name, t.table_name), ', '))
           from warden.tenant_tables t);
  execute (select format('grant insert, update, delete on %s to authenticated',
                         string_agg(format('%I.%I', t.schema_name, t.table_name), ', '))
           from warden.tenant_tables t
           where not t.is_read_only and t.table_name <> all (array[
             'billing_cycles', 'payments', 'payment_events_log', 'credit_transactions', 'usage_events', 'usage_records',
             'telephony_audit_log', 'compliance_audit_logs', 'voicemail_audit_log']));

  perform warden.watch('public.calls', 'calls', 'call', call_column => 'id');
  perform warden.watch('public.call_logs', 'call_logs', 'call_log', call_column => 'call_id');
  perform warden.watch('public.recordings', 'recordings', 'recording', call_column => 'call_id');
end
$do$;

-- A gateway learns from the log that an organisation was created or deleted.
-- Whoever comes behind a waiting request for its lock waits with it.
set local lock_timeout = '200ms';
select warden.watch('public.organizations', 'org', 'org', org_column => 'id');
