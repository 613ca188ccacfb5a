-- The voice-call platform, an optional schema: tables for what Twilio (telephony) and Vapi (assistants) report about
-- calls, the recordings of them, and what such a product stores around them.
--
-- `warden migrate --platform` chooses it, and warden._platform_migrations records the choice: from then on every
-- `warden migrate` keeps it up to date. This file lists the tables. The later ones create them, but only if the
-- database held no other tables when the platform was chosen. Otherwise `warden migrate --platform` registers those
-- that exist, and adopts them online.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
-- Default privileges may have granted the migrator's record to any role.
do $do$
declare
  grantee text;
begin
  for grantee in
    select distinct case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end
    from pg_class c, aclexplode(c.relacl) a
    where c.oid = to_regclass('warden._platform_migrations') and a.grantee <> c.relowner
  loop
    execute format('revoke all on warden._platform_migrations from %s', grantee);
  end loop;
end
$do$;
set local role warden_owner;

-- One row about the platform. Each later migration runs in a transaction of its own, so the decision is recorded here.
create table if not exists warden.platform_set (
  singleton      boolean     primary key default true check (singleton),
  -- Whether Warden creates the platform's tables.
  creates_tables boolean     not null,
  chosen_at      timestamptz not null default now()
);
-- This file is applied again if it changes.
delete from warden.platform_indexes;
insert into warden.platform_tables
  (table_name, scope, user_column, parent_table, parent_column, is_immutable, is_read_only, pauses_triggers)
select t.name, 'org', t.user_column, t.parent, t.parent_column, t.immutable, false, t.pauses
from (values
  -- name,                       user_column, parent,                    parent_column,     immutable, pauses
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
  -- Its update trigger must not see the backfill of org_id.
  ('user_phone_numbers',         'user_id',   null,                      null,                true,  true),
  ('user_twilio_subaccounts',    'user_id',   null,                      null,                false, false),
  ('billing_cycles',             'user_id',   null,                      null,                false, false),
  ('call_lists',                 'user_id',   null,                      null,                false, false)
) as t (name, user_column, parent, parent_column, immutable, pauses)
on conflict (table_name) do update
  set (scope, user_column, parent_table, parent_column, is_immutable, is_read_only, pauses_triggers)
    = (excluded.scope, excluded.user_column, excluded.parent_table, excluded.parent_column, excluded.is_immutable,
       excluded.is_read_only, excluded.pauses_triggers);

-- These rows belong to a user, who may read and not change them: credits, plan and billing account.
insert into warden.platform_tables (table_name, scope, user_column, is_immutable, is_read_only, pauses_triggers) values
  ('user_credits',       'user', 'user_id', false, true, false),
  ('user_subscriptions', 'user', 'user_id', false, true, false),
  ('customers',          'user', 'user_id', false, true, false)
on conflict do nothing;

-- Indexes for the platform's frequent queries, all within one organisation: newest first, by state, and by the id that
-- a provider's webhook sends. Indexes on (org_id, parent) follow from the registry.
insert into warden.platform_indexes (table_name, index_name, key_columns, is_unique)
select t.table_name, t.index_name, t.key_columns::text[], t.is_unique from (values
  ('calls',                    'idx_calls_org_created',                        '{org_id,created_at desc}', false),
  ('calls', 'idx_calls_org_status_created', '{org_id,status,created_at desc}', false),
  ('calls',                    'idx_calls_org_twilio_call_sid',                '{org_id,twilio_call_sid}', true),
  ('calls',                    'idx_calls_org_vapi_call_id',                   '{org_id,vapi_call_id}', false),
  ('call_logs',                'idx_call_logs_org_vapi_call_id',               '{org_id,vapi_call_id}', true),
  ('call_logs',                'idx_call_logs_org_created',                    '{org_id,created_at desc}', false),
  ('recordings',               'idx_recordings_org_twilio_sid',                '{org_id,twilio_recording_sid}', true),
  ('recordings',               'idx_recordings_org_created',                   '{org_id,created_at desc}', false),
  ('recording_upload_queue',   'idx_recording_upload_queue_org_recording_id',  '{org_id,recording_id}', true),
  ('recording_upload_queue',   'idx_recording_upload_queue_org_due',           '{org_id,state,next_attempt_at}', false),
  ('leads', 'idx_leads_org_status_created', '{org_id,status,created_at desc}', false),
  ('leads',                    'idx_leads_org_phone_number',                   '{org_id,phone_number}', false),
  ('contacts',                 'idx_contacts_org_phone_number',                '{org_id,phone_number}', false),
  ('campaigns',                'idx_campaigns_org_status',                     '{org_id,status}', false),
  ('campaign_leads',           'idx_campaign_leads_org_campaign_id_status',    '{org_id,campaign_id,status}', false),
  ('cold_call_logs',           'idx_cold_call_logs_org_created',               '{org_id,created_at desc}', false),
  ('dnc_list',                 'idx_dnc_list_org_phone_number',                '{org_id,phone_number}', true),
  ('user_phone_numbers',       'idx_user_phone_numbers_org_phone_number',      '{org_id,phone_number}', false),
  ('phone_assistants',         'idx_phone_assistants_org_vapi_assistant_id',   '{org_id,vapi_assistant_id}', false),
  ('knowledge_base_changelog', 'idx_knowledge_base_changelog_org_created',     '{org_id,created_at desc}', false),
  ('compliance_audit_logs',    'idx_compliance_audit_logs_org_created',        '{org_id,created_at desc}', false),
  ('telephony_audit_log',      'idx_telephony_audit_log_org_created',          '{org_id,created_at desc}', false),
  ('credit_transactions',      'idx_credit_transactions_org_created',          '{org_id,created_at desc}', false),
  ('payments',                 'idx_payments_org_created',                     '{org_id,created_at desc}', false),
  ('usage_events', 'idx_usage_events_org_type_occurred', '{org_id,event_type,occurred_at desc}', false),
  ('usage_events',             'idx_usage_events_org_occurred',                '{org_id,occurred_at desc}', false),
  ('usage_records',            'idx_usage_records_org_period',                 '{org_id,period_start desc}', false),
  ('billing_cycles',           'idx_billing_cycles_org_period',                '{org_id,period_start desc}', false),
  ('notification_history',     'idx_notification_history_org_created',         '{org_id,created_at desc}', false),
  ('notification_rate_limits', 'idx_notification_rate_limits_org_channel', '{org_id,channel,window_start desc}', false)
) as t (table_name, index_name, key_columns, is_unique);

do $$
begin
  insert into warden.platform_set (creates_tables) select warden.is_public_empty()
  where not exists (select from warden.platform_set);
  if found then
    perform warden.register_platform();
    if not (select s.creates_tables from warden.platform_set s) then
      raise notice 'schema public already contains other tables: none of the platform''s tables is created';
    end if;
  else
    -- The former version registered all names, whether the tables existed or not.
    update warden.platform_tables p set adopted_table = to_regclass(format('public.%I', p.table_name))
    where p.adopted_table is null and exists (
      select from warden.tenant_tables t
      where t.schema_name = 'public' and t.table_name = p.table_name and t.origin = 'platform');
    perform warden.forget_absent_tables();
  end if;
end
$$;

reset role;
