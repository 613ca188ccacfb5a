-- Campaigns: which leads to call, from which numbers, and with which result.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
do $do$
begin
  -- This file creates its tables once, all of them together. What an operator changed later stays.
  if not (select s.creates_tables from warden.platform_set s) or to_regclass('public.campaigns') is not null then
    return;
  end if;

  create table public.campaigns (
    id           uuid primary key default gen_random_uuid(),
    org_id       uuid not null,
    user_id      uuid,
    name         text not null check (length(name) between 1 and 200),
    status       text not null default 'draft'
                   check (status in ('draft', 'scheduled', 'running', 'paused', 'finished')),
    assistant_id text,
    -- Daily window for calls, in the contact's time zone.
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
    status          text not null default 'pending'
                   check (status in ('pending', 'calling', 'done', 'skipped', 'failed')),
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
    -- Calls per day from this number. A limit keeps carriers from marking it as spam.
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

  perform warden.create_tenant_objects(array[
    'public.campaigns', 'public.campaign_leads', 'public.campaign_phone_numbers',
    'public.campaign_summaries']::regclass[],
    on_parent_delete => ' on delete cascade');

  -- A second parent. Its foreign key includes org_id as well, because foreign-key checks ignore row-level security.
  alter table public.campaign_leads add constraint campaign_leads_org_id_lead_id_fkey
    foreign key (org_id, lead_id) references public.leads (org_id, id) on delete cascade;
  create index idx_campaign_leads_org_lead_id on public.campaign_leads (org_id, lead_id);
  perform warden.grant_to_requests(array[
    'public.campaigns', 'public.campaign_leads', 'public.campaign_phone_numbers',
    'public.campaign_summaries']::regclass[], may_write => true);
end
$do$;
