-- Billing: payments, credits and usage of an organisation; plan and balance of a user.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
do $do$
begin
  -- This file creates its tables once, all of them together. What an operator changed later stays.
  if not (select s.creates_tables from warden.platform_set s) or to_regclass('public.billing_cycles') is not null then
    return;
  end if;

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
    status              text not null default 'pending'
                   check (status in ('pending', 'succeeded', 'failed', 'refunded')),
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
    -- Purchases are positive, usage is negative.
    amount     numeric(14, 4) not null check (amount <> 0),
    reason     text not null default 'usage' check (reason in ('purchase', 'usage', 'refund', 'adjustment')),
    -- The call that was paid for. No foreign key, because the entry outlives the call.
    call_id    uuid,
    created_at timestamptz not null default now()
  );
  create table public.usage_events (
    id          bigint generated always as identity primary key,
    org_id      uuid not null,
    user_id     uuid,
    event_type  text not null,
    quantity    numeric(14, 4) not null default 1 check (quantity >= 0),
    unit        text not null default 'call'
                   check (unit in ('call', 'second', 'minute', 'token', 'character', 'message')),
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
  create table public.user_credits (
    user_id    uuid primary key,
    balance    numeric(14, 4) not null default 0,
    updated_at timestamptz not null default now()
  );
  create table public.user_subscriptions (
    id                       uuid primary key default gen_random_uuid(),
    user_id                  uuid not null,
    plan                     text not null,
    status                   text not null default 'active'
                   check (status in ('trialing', 'active', 'past_due', 'canceled')),
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

  perform warden.create_tenant_objects(array[
    'public.billing_cycles', 'public.payments', 'public.payment_events_log',
    'public.credit_transactions', 'public.usage_events', 'public.usage_records', 'public.user_credits',
    'public.user_subscriptions', 'public.customers']::regclass[],
    on_parent_delete => ' on delete cascade');
  -- Only back ends write these.
  perform warden.grant_to_requests(array[
    'public.billing_cycles', 'public.payments', 'public.payment_events_log',
    'public.credit_transactions', 'public.usage_events', 'public.usage_records', 'public.user_credits',
    'public.user_subscriptions', 'public.customers']::regclass[], may_write => false);
end
$do$;
