-- People: contacts, leads, their consent, and the do-not-call list.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
do $do$
begin
  -- This file creates its tables once, all of them together. What an operator changed later stays.
  if not (select s.creates_tables from warden.platform_set s) or to_regclass('public.contacts') is not null then
    return;
  end if;

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
    -- Source of the consent or its withdrawal: a form, a call, a letter.
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
    -- Why the number may not be called: the person asked, a national register lists it, or a law forbids it.
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
    -- Filter that selects the contacts. It is evaluated when calls are made.
    filter       jsonb not null default '{}',
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now()
  );

  perform warden.create_tenant_objects(array[
    'public.contacts', 'public.consent_records', 'public.leads', 'public.daily_lead_uploads',
    'public.dnc_list', 'public.cold_call_logs', 'public.call_lists']::regclass[],
    on_parent_delete => ' on delete cascade');

  -- A second parent. Its foreign key includes org_id as well, because foreign-key checks ignore row-level security.
  alter table public.cold_call_logs add constraint cold_call_logs_org_id_call_id_fkey
    foreign key (org_id, call_id) references public.calls (org_id, id) on delete cascade;
  create index idx_cold_call_logs_org_call_id on public.cold_call_logs (org_id, call_id);
  perform warden.grant_to_requests(array[
    'public.contacts', 'public.consent_records', 'public.leads', 'public.daily_lead_uploads',
    'public.dnc_list', 'public.cold_call_logs', 'public.call_lists']::regclass[], may_write => true);
end
$do$;
