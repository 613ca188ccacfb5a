-- The one list of tables whose rows belong to an organisation. Adoption (`warden migrate`), the audit,
-- the policies and the tests all read it; nothing repeats it.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

create table warden.tenant_tables (
  schema_name   name not null default 'public',
  table_name    name not null,
  -- 'org': has org_id and is kept apart by it. 'user': stays the user's own (named here so that the
  -- audit knows that somebody decided it). 'root': organizations itself, whose id is the organisation.
  scope         text not null default 'org' check (scope in ('org', 'user', 'root')),
  -- Names the user a row belongs to: gives rows without org_id the organisation of that user.
  user_column   name,
  -- The row inherits the organisation of the row of parent_table whose parent_key is in parent_column.
  parent_schema name,
  parent_table  name,
  parent_column name,
  parent_key    name not null default 'id',
  -- Whether org_id may never change once it is set.
  is_immutable  boolean not null default false,
  -- Whether members may only read: what is written there is the backend's to decide.
  is_read_only  boolean not null default false,
  -- Whether the table's own triggers are disabled for as long as a batch of rows gets its org_id.
  pauses_triggers boolean not null default false,
  -- 'platform': named by Warden. 'application': added by warden.adopt_table().
  origin        text not null default 'application' check (origin in ('platform', 'application')),
  primary key (schema_name, table_name),
  check (scope <> 'user' or user_column is not null),
  check ((parent_schema is null) = (parent_table is null)
     and (parent_table is null) = (parent_column is null))
);

-- Indexes that queries of one organisation use, besides those that follow from the registry itself:
-- (org_id, parent_column) on a child, unique (org_id, parent_key) on a parent, and (org_id) where no other
-- index begins with it.
create table warden.tenant_indexes (
  schema_name name not null default 'public',
  table_name  name not null,
  index_name  name not null,
  -- Each 'column' or 'column desc'; the first is org_id.
  key_columns text[] not null check (key_columns[1] = 'org_id'),
  is_unique   boolean not null default false,
  primary key (schema_name, index_name),
  foreign key (schema_name, table_name) references warden.tenant_tables on delete cascade
);

insert into warden.tenant_tables
  (table_name, user_column, parent_schema, parent_table, parent_column, is_immutable, pauses_triggers, origin)
select t.name, t.user_column, case when t.parent is not null then 'public' end, t.parent, t.parent_column,
       coalesce(t.immutable, false), coalesce(t.pauses, false), 'platform'
from (values
  -- name,                       user_column, parent,                    parent_column,     immutable, pauses
  -- Who belongs to an organisation: org_id is what the row is about, and is never filled.
  ('organization_members',       null,        null,                      null,                false, false),
  ('calls',                      'user_id',   null,                      null,                true,  false),
  ('call_logs',                  'user_id',   'calls',                   'call_id',           true,  false),
  ('recordings',                 null,        'calls',                   'call_id',           true,  false),
  ('recording_upload_queue',     null,        'recordings',              'recording_id',      false, false),
  ('leads',                      'user_id',   null,                      null,                true,  false),
  ('knowledge_base',             'user_id',   null,                      null,                true,  false),
  ('knowledge_base_changelog',   null,        'knowledge_base',          'knowledge_base_id', true,  false),
  ('kb_sync_log',                null,        'knowledge_base',          'knowledge_base_id', true,  false),
  ('knowledge_base_documents',   'user_id',   'knowledge_base',          'knowledge_base_id', true,  false),
  ('knowledge_base_chunks',      null,        'knowledge_base_documents', 'document_id',      true,  false),
  ('embeddings',                 null,        'knowledge_base_chunks',   'chunk_id',          false, false),
  ('campaigns',                  'user_id',   null,                      null,                true,  false),
  ('campaign_leads',             null,        'campaigns',               'campaign_id',       true,  false),
  ('campaign_phone_numbers',     null,        'campaigns',               'campaign_id',       true,  false),
  ('campaign_summaries',         null,        'campaigns',               'campaign_id',       false, false),
  ('voicemail_audit_log',        null,        'calls',                   'call_id',           true,  false),
  ('sentiment_analysis',         null,        'call_logs',               'call_log_id',       true,  false),
  ('user_active_calls',          'user_id',   'calls',                   'call_id',           false, false),
  ('cold_call_logs',             'user_id',   'leads',                   'lead_id',           true,  false),
  ('contacts',                   'user_id',   null,                      null,                true,  false),
  ('consent_records',            null,        'contacts',                'contact_id',        false, false),
  ('agent_configurations',       'user_id',   null,                      null,                true,  false),
  ('compliance_audit_logs',      'user_id',   null,                      null,                false, false),
  ('credential_tokens',          'user_id',   null,                      null,                false, false),
  ('credit_transactions',        'user_id',   null,                      null,                false, false),
  ('customer_twilio_keys',       'user_id',   null,                      null,                false, false),
  ('daily_lead_uploads',         'user_id',   null,                      null,                false, false),
  ('dnc_list',                   'user_id',   null,                      null,                false, false),
  ('notification_history',       'user_id',   null,                      null,                false, false),
  ('notification_rate_limits',   'user_id',   null,                      null,                false, false),
  ('notification_templates',     'user_id',   null,                      null,                false, false),
  ('onboarding_events',          'user_id',   null,                      null,                false, false),
  ('payments',                   'user_id',   null,                      null,                false, false),
  ('payment_events_log',         null,        'payments',                'payment_id',        false, false),
  ('phone_assistants',           'user_id',   null,                      null,                false, false),
  ('telephony_audit_log',        'user_id',   null,                      null,                false, false),
  ('usage_events',               'user_id',   null,                      null,                false, false),
  ('usage_records',              'user_id',   null,                      null,                false, false),
  -- Has a trigger on updates that must not see the filling of org_id.
  ('user_phone_numbers',         'user_id',   null,                      null,                true,  true),
  ('user_twilio_subaccounts',    'user_id',   null,                      null,                false, false),
  ('billing_cycles',             'user_id',   null,                      null,                false, false),
  ('call_lists',                 'user_id',   null,                      null,                false, false)
) as t (name, user_column, parent, parent_column, immutable, pauses);

-- These stay the user's: credits, plan and billing account, which he may see and not change.
insert into warden.tenant_tables (table_name, scope, user_column, is_read_only, origin) values
  ('user_credits',       'user', 'user_id', true, 'platform'),
  ('user_subscriptions', 'user', 'user_id', true, 'platform'),
  ('customers',          'user', 'user_id', true, 'platform');

-- Who belongs where decides what one may see, so nobody adds himself.
insert into warden.tenant_tables (table_name, scope, is_read_only, origin) values
  ('organizations', 'root', true, 'platform');
update warden.tenant_tables set is_read_only = true where table_name = 'organization_members';

reset role;
