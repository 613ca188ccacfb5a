-- Notifications, and the first steps of a new customer.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
do $do$
begin
  -- This file creates its tables once, all of them together. What an operator changed later stays.
  if not (select s.creates_tables from warden.platform_set s) or to_regclass('public.notification_templates') is not null then
    return;
  end if;

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

  perform warden.create_tenant_objects(array[
    'public.notification_templates', 'public.notification_history', 'public.notification_rate_limits',
    'public.onboarding_events']::regclass[],
    on_parent_delete => ' on delete cascade');
  perform warden.grant_to_requests(array[
    'public.notification_templates', 'public.notification_history', 'public.notification_rate_limits',
    'public.onboarding_events']::regclass[], may_write => true);
end
$do$;
