-- Telephony: phone numbers, provider accounts and their keys, audit logs.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
do $do$
begin
  -- This file creates its tables once, all of them together. What an operator changed later stays.
  if not (select s.creates_tables from warden.platform_set s) or to_regclass('public.user_phone_numbers') is not null then
    return;
  end if;

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
  -- Secrets are stored encrypted. The key is not in the database.
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

  perform warden.create_tenant_objects(array[
    'public.user_phone_numbers', 'public.phone_assistants', 'public.user_twilio_subaccounts',
    'public.customer_twilio_keys', 'public.credential_tokens', 'public.telephony_audit_log',
    'public.compliance_audit_logs']::regclass[],
    on_parent_delete => ' on delete cascade');
  perform warden.grant_to_requests(array[
    'public.user_phone_numbers', 'public.phone_assistants', 'public.user_twilio_subaccounts',
    'public.customer_twilio_keys', 'public.credential_tokens']::regclass[], may_write => true);
  -- Only back ends write these.
  perform warden.grant_to_requests(array[
    'public.telephony_audit_log', 'public.compliance_audit_logs']::regclass[], may_write => false);
end
$do$;
