-- Assistants: their configuration and their knowledge bases.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
do $do$
begin
  -- This file creates its tables once, all of them together. What an operator changed later stays.
  if not (select s.creates_tables from warden.platform_set s) or to_regclass('public.agent_configurations') is not null then
    return;
  end if;

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
    -- A plain array, because a vector type would need an extension.
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

  perform warden.create_tenant_objects(array[
    'public.agent_configurations', 'public.knowledge_base', 'public.knowledge_base_documents',
    'public.knowledge_base_chunks', 'public.embeddings', 'public.knowledge_base_changelog',
    'public.kb_sync_log']::regclass[],
    on_parent_delete => ' on delete cascade');
  perform warden.grant_to_requests(array[
    'public.agent_configurations', 'public.knowledge_base', 'public.knowledge_base_documents',
    'public.knowledge_base_chunks', 'public.embeddings', 'public.knowledge_base_changelog',
    'public.kb_sync_log']::regclass[], may_write => true);
end
$do$;
