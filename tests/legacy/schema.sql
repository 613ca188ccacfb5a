-- The schema of a voice-call platform without organisations: most of its 46 tables have a user_id, and only
-- organization_members has an org_id. It contains the difficulties of adoption on purpose: foreign keys with every ON
-- DELETE action, keys of several types, the application's own policies and owners, triggers on updates, and parents
-- without a foreign key.

do $$
begin
  -- Roles belong to the cluster, and several tests may load this concurrently.
  if not exists (select from pg_roles where rolname = 'legacy_app') then
    create role legacy_app login;
  end if;
exception when duplicate_object or unique_violation then null;
end
$$;
do $$
begin
  if not exists (select from pg_roles where rolname = 'legacy_billing') then
    create role legacy_billing nologin;
  end if;
exception when duplicate_object or unique_violation then null;
end
$$;

-- The id of the n-th user, organisation, or row of a table.
create function legacy_id(kind text, n bigint) returns uuid
language sql immutable as $$ select md5(kind || n)::uuid $$;

create table organizations (
  id         uuid primary key,
  name       text not null,
  plan       text not null default 'free',
  created_at timestamptz not null default now()
);
create table organization_members (
  org_id     uuid not null references organizations (id) on delete cascade,
  user_id    uuid not null,
  created_at timestamptz not null default now(),
  primary key (org_id, user_id)
);

create table calls (
  id               uuid primary key default gen_random_uuid(),
  user_id          uuid,
  twilio_call_sid  text,
  vapi_call_id     text,
  status           text not null default 'queued',
  from_number      text,
  to_number        text,
  started_at       timestamptz,
  metadata         jsonb not null default '{}',
  created_at       timestamptz not null default now(),
  updated_at       timestamptz not null default now()
);
create index calls_user on calls (user_id);
create table call_logs (
  id               uuid primary key default gen_random_uuid(),
  user_id          uuid,
  call_id          uuid references calls (id) on delete cascade,
  vapi_call_id     text unique,
  summary          text,
  transcript       text,
  duration_seconds integer,
  created_at       timestamptz not null default now(),
  updated_at       timestamptz not null default now()
);
create index call_logs_call on call_logs (call_id);
create index call_logs_created on call_logs (created_at);
create table recordings (
  id               uuid primary key default gen_random_uuid(),
  call_id          uuid not null references calls (id) on delete cascade,
  storage_path     text,
  status           text not null default 'in-progress',
  created_at       timestamptz not null default now()
);
create index recordings_call on recordings (call_id);
create table recording_upload_queue (
  id               bigint generated always as identity primary key,
  recording_id     uuid references recordings (id) on delete cascade,
  attempts         integer not null default 0,
  created_at       timestamptz not null default now()
);
create table voicemail_audit_log (
  id               bigserial primary key,
  call_id          uuid references calls (id) on delete set null,
  note             text
);
create table sentiment_analysis (
  id               uuid primary key default gen_random_uuid(),
  call_log_id      uuid references call_logs (id) on delete cascade,
  score            real
);
create table user_active_calls (
  id               uuid primary key default gen_random_uuid(),
  user_id          uuid not null,
  call_id          uuid references calls (id) on delete set null,
  started_at       timestamptz not null default now()
);

create table leads (
  id               uuid primary key default gen_random_uuid(),
  user_id          uuid,
  phone            text,
  score            integer not null default 0,
  updated_at       timestamptz not null default now()
);
create table cold_call_logs (
  id               uuid primary key default gen_random_uuid(),
  user_id          uuid,
  lead_id          uuid references leads (id) on delete set null on update cascade,
  outcome          text
);
create table contacts (
  id               uuid primary key default gen_random_uuid(),
  user_id          uuid,
  email            text,
  name             text,
  updated_at       timestamptz not null default now()
);
create unique index contacts_email on contacts (user_id, email);
create table consent_records (
  id               uuid primary key default gen_random_uuid(),
  contact_id       uuid references contacts (id) on delete cascade,
  granted          boolean not null default true
);
create table campaigns (
  id               uuid primary key default gen_random_uuid(),
  user_id          uuid,
  name             text,
  updated_at       timestamptz not null default now()
);
create table campaign_leads (
  id               uuid primary key default gen_random_uuid(),
  campaign_id      uuid references campaigns (id) on delete cascade,
  lead_id          uuid references leads (id) on delete cascade,
  state            text not null default 'new'
);
create index campaign_leads_campaign on campaign_leads (campaign_id);
create index campaign_leads_lead on campaign_leads (lead_id);
create table campaign_phone_numbers (
  id               uuid primary key default gen_random_uuid(),
  campaign_id      uuid references campaigns (id) on delete restrict,
  number           text
);
create table campaign_summaries (
  campaign_id      uuid primary key references campaigns (id),
  body             text
);

create table knowledge_base (
  id               uuid primary key default gen_random_uuid(),
  user_id          uuid,
  title            text
);
create table knowledge_base_changelog (
  id               bigserial primary key,
  knowledge_base_id uuid references knowledge_base (id) deferrable initially deferred,
  change           text
);
-- No foreign key: the application maintains this reference itself, imperfectly.
create table kb_sync_log (
  id               bigserial primary key,
  knowledge_base_id uuid,
  synced_at        timestamptz not null default now()
);
create table knowledge_base_documents (
  id               uuid primary key default gen_random_uuid(),
  user_id          uuid,
  knowledge_base_id uuid references knowledge_base (id) on delete cascade,
  title            text
);
create table knowledge_base_chunks (
  id               uuid primary key default gen_random_uuid(),
  document_id      uuid references knowledge_base_documents (id) on delete cascade,
  body             text
);
create index knowledge_base_chunks_document on knowledge_base_chunks (document_id);
create table embeddings (
  id               uuid primary key default gen_random_uuid(),
  chunk_id         uuid references knowledge_base_chunks (id) on delete cascade,
  vector           real[]
);

create table payments (
  id               uuid primary key default gen_random_uuid(),
  user_id          uuid,
  cents            integer not null default 0
);
-- No foreign key, and a payment is deleted before its events.
create table payment_events_log (
  id               bigserial primary key,
  payment_id       uuid,
  kind             text
);
create table user_phone_numbers (
  id               uuid primary key default gen_random_uuid(),
  user_id          uuid not null,
  number           text,
  updates          integer not null default 0
);

-- Tables of the same shape. Every second one has an integer key, the others a uuid.
do $$
declare
  t record;
begin
  for t in
    select name, n % 2 = 0 as numbered
    from unnest(array['agent_configurations', 'compliance_audit_logs', 'credential_tokens', 'credit_transactions',
      'customer_twilio_keys', 'daily_lead_uploads', 'dnc_list', 'notification_history',
      'notification_rate_limits', 'notification_templates', 'onboarding_events', 'phone_assistants',
      'telephony_audit_log', 'usage_events', 'usage_records', 'user_twilio_subaccounts', 'billing_cycles',
      'call_lists', 'user_credits', 'user_subscriptions', 'customers']) with ordinality u(name, n)
  loop
    execute format('create table %I (id %s, user_id uuid, label text, body jsonb not null default ''{}'',
                                     created_at timestamptz not null default now())',
      t.name, case when t.numbered then 'bigint generated by default as identity primary key'
                   else 'uuid primary key default gen_random_uuid()' end);
  end loop;
end
$$;

-- Triggers on updates. The backfill of org_id must not fire them.
create function touch_updated_at() returns trigger language plpgsql as $$
begin
  new.updated_at := clock_timestamp();
  return new;
end
$$;
create trigger touch before update on calls for each row execute function touch_updated_at();
create trigger touch before update on leads for each row execute function touch_updated_at();
create trigger touch before update on contacts for each row execute function touch_updated_at();

-- Only its user may change a phone number: any other update fails.
create function count_phone_update() returns trigger language plpgsql as $$
begin
  if coalesce(current_setting('app.user_id', true), '') = '' then
    raise exception 'phone numbers are changed by their user';
  end if;
  new.updates := old.updates + 1;
  return new;
end
$$;
create trigger count_update before update on user_phone_numbers
  for each row execute function count_phone_update();
create function never_called() returns trigger language plpgsql as $$
begin
  raise exception 'this trigger was switched off years ago';
end
$$;
create trigger switched_off before insert or update on user_phone_numbers
  for each row execute function never_called();
alter table user_phone_numbers disable trigger switched_off;

-- The application's own policies: by user, and one that allows everything.
alter table contacts enable row level security;
create policy own_contacts on contacts for select
  using (user_id::text = current_setting('request.jwt.claim.sub', true));
create policy backend on contacts to legacy_app using (true) with check (true);
alter table campaigns enable row level security;
create policy everybody on campaigns using (true) with check (true);

alter table payments owner to legacy_billing;
alter table billing_cycles owner to legacy_billing;

grant usage on schema public to legacy_app;
grant select, insert, update, delete on all tables in schema public to legacy_app;
grant usage on all sequences in schema public to legacy_app;
