//! Breaks of the objects of registered tables: columns, keys, indexes, triggers, row-level security.

use super::{Break, broken};

pub(super) const BREAKS: &[Break] = &[
    // The column.
    broken("dnc_list", "alter table dnc_list drop column org_id cascade", &[("org-column", "public.dnc_list")]),
    broken(
        "call_lists",
        "alter table call_lists drop column org_id cascade; alter table call_lists add org_id text",
        &[("org-column", "public.call_lists")],
    ),
    broken(
        "usage_records",
        "alter table usage_records drop column org_id cascade;
         alter table usage_records add org_id uuid generated always as (id) stored",
        &[("org-column", "public.usage_records")],
    ),
    broken(
        "payments",
        "alter table payments alter column org_id drop not null",
        &[("not-null", "public.payments")],
    ),
    broken(
        "daily_lead_uploads",
        "alter table daily_lead_uploads alter column org_id drop not null; set local session_replication_role = replica;
         insert into daily_lead_uploads default values; set local session_replication_role = origin",
        &[("not-null", "public.daily_lead_uploads"), ("null-rows", "public.daily_lead_uploads")],
    ),
    // Keys.
    broken(
        "phone_assistants",
        "alter table phone_assistants drop constraint phone_assistants_org_id_fkey",
        &[("organization-key", "public.phone_assistants")],
    ),
    broken(
        "onboarding_events",
        "alter table onboarding_events drop constraint onboarding_events_org_id_fkey;
         alter table onboarding_events add constraint onboarding_events_org_id_fkey
           foreign key (org_id) references organizations (id)",
        &[("organization-key", "public.onboarding_events")],
    ),
    broken(
        "usage_events",
        "alter table usage_events drop constraint usage_events_org_id_fkey;
         alter table usage_events add constraint usage_events_org_id_fkey
           foreign key (org_id) references organizations (id) on delete cascade not valid",
        &[("organization-key", "public.usage_events")],
    ),
    broken(
        "notification_history",
        "alter table notification_history drop constraint notification_history_org_id_fkey;
         insert into notification_history (org_id, recipient) values (gen_random_uuid(), 'a@example.com')",
        &[("organization-key", "public.notification_history"), ("unknown-organizations", "public.notification_history")],
    ),
    broken(
        "campaign_summaries",
        "alter table campaign_summaries drop constraint campaign_summaries_org_id_campaign_id_fkey",
        &[("parent-foreign-key", "public.campaign_summaries")],
    ),
    broken(
        "kb_sync_log",
        "alter table kb_sync_log drop constraint kb_sync_log_org_id_knowledge_base_id_fkey;
         insert into organizations (id, name) values ('b0000000-0000-0000-0000-000000000001', 'other');
         insert into knowledge_base (id, org_id, name) values ('c0000000-0000-0000-0000-000000000001', 'b0000000-0000-0000-0000-000000000001', 'theirs');
         insert into kb_sync_log (org_id, knowledge_base_id) values
           ('a0000000-0000-0000-0000-000000000001', 'c0000000-0000-0000-0000-000000000001')",
        &[("parent-foreign-key", "public.kb_sync_log"), ("parent-rows", "public.kb_sync_log")],
    ),
    broken(
        "kb_sync_log",
        "alter table kb_sync_log drop constraint kb_sync_log_org_id_knowledge_base_id_fkey;
         insert into kb_sync_log (org_id, knowledge_base_id) values
           ('a0000000-0000-0000-0000-000000000001', 'c0000000-0000-0000-0000-00000000dead')",
        &[("parent-foreign-key", "public.kb_sync_log"), ("parent-rows", "public.kb_sync_log")],
    ),
    broken(
        "contacts",
        "alter table contacts drop constraint contacts_org_id_id_key cascade",
        &[("parent-key", "public.contacts"), ("parent-foreign-key", "public.consent_records")],
    ),
    // Indexes.
    broken("calls", "drop index idx_calls_org_created", &[("org-index", "public.calls")]),
    broken(
        "telephony_audit_log",
        "update pg_index set indisvalid = false where indexrelid = 'idx_telephony_audit_log_org_created'::regclass",
        &[("org-index", "public.telephony_audit_log"), ("org-plan", "public.telephony_audit_log")],
    ),
    broken(
        "compliance_audit_logs",
        "drop index idx_compliance_audit_logs_org_created;
         create index idx_compliance_audit_logs_org_created on compliance_audit_logs (created_at)",
        &[("org-index", "public.compliance_audit_logs"), ("org-plan", "public.compliance_audit_logs")],
    ),
    broken(
        "credit_transactions",
        "drop index idx_credit_transactions_org_created;
         create index idx_credit_transactions_org_created on credit_transactions (org_id, created_at desc) where amount > 0",
        &[("org-index", "public.credit_transactions"), ("org-plan", "public.credit_transactions")],
    ),
    broken("call_logs", "drop index idx_call_logs_org_vapi_call_id", &[("unique-index", "public.call_logs")]),
    broken(
        "recordings",
        "drop index idx_recordings_org_twilio_sid;
         create index idx_recordings_org_twilio_sid on recordings (org_id, twilio_recording_sid)",
        &[("unique-index", "public.recordings")],
    ),
    broken(
        "calls",
        "alter table calls add lead_id uuid references leads",
        &[("loose-key", "public.calls")],
    ),
    // Triggers.
    broken("leads", "drop trigger warden_org_id_immutable on leads", &[("immutability", "public.leads")]),
    broken(
        "campaigns",
        "alter table campaigns disable trigger warden_org_id_immutable",
        &[("immutability", "public.campaigns")],
    ),
    broken(
        "agent_configurations",
        "alter table agent_configurations enable replica trigger warden_org_id_immutable",
        &[("immutability", "public.agent_configurations")],
    ),
    broken(
        "user_phone_numbers",
        "create or replace trigger warden_org_id_immutable before update on user_phone_numbers for each row
         when (false) execute function prevent_org_id_change()",
        &[("immutability", "public.user_phone_numbers")],
    ),
    broken("contacts", "alter table contacts alter org_id drop default", &[("org-default", "public.contacts")]),
    broken("dnc_list", "drop trigger warden_require_org_id on dnc_list", &[("org-default", "public.dnc_list")]),
    broken("customer_twilio_keys", "select warden.fill_org_id('customer_twilio_keys')", &[("fill-trigger", "public.customer_twilio_keys")]),
    broken(
        "user_twilio_subaccounts",
        "select warden.unprotect('user_twilio_subaccounts');
         alter table user_twilio_subaccounts alter org_id drop not null",
        &[("not-enforced", "public.user_twilio_subaccounts"), ("fill-trigger", "public.user_twilio_subaccounts")],
    ),
    broken(
        "notification_templates",
        "select warden.unprotect('notification_templates'); alter table notification_templates alter org_id drop not null;
         select warden.fill_org_id('notification_templates'); alter table notification_templates disable trigger warden_fill_org_id",
        &[("not-enforced", "public.notification_templates"), ("fill-trigger", "public.notification_templates")],
    ),
    broken(
        "notification_rate_limits",
        "select warden.unprotect('notification_rate_limits')",
        &[("not-enforced", "public.notification_rate_limits")],
    ),
    // Row-level security.
    broken("voicemail_audit_log", "alter table voicemail_audit_log disable row level security", &[("row-security", "public.voicemail_audit_log")]),
    broken("embeddings", "alter table embeddings no force row level security", &[("row-security", "public.embeddings")]),
    broken("organizations", "alter table organizations no force row level security", &[("row-security", "public.organizations")]),
    broken("billing_cycles", "drop policy warden_select on billing_cycles", &[("policy", "public.billing_cycles")]),
    broken("sentiment_analysis", "alter policy warden_update on sentiment_analysis with check (true)", &[("policy", "public.sentiment_analysis")]),
    broken("credential_tokens", "alter policy warden_insert on credential_tokens to public", &[("policy", "public.credential_tokens")]),
    broken("user_active_calls", "alter policy warden_delete on user_active_calls using (org_id = public.auth_org_id())", &[("policy", "public.user_active_calls")]),
    broken(
        "payment_events_log",
        "drop policy warden_org on payment_events_log;
         create policy warden_org on payment_events_log using (org_id = (select public.auth_org_id()))",
        &[("policy", "public.payment_events_log")],
    ),
    broken("campaign_leads", "create policy everybody on campaign_leads using (true)", &[("other-policy", "public.campaign_leads")]),
    broken(
        "organization_members",
        "create policy warden_insert on organization_members for insert with check (true)",
        &[("other-policy", "public.organization_members")],
    ),
    broken("user_credits", "drop policy warden_select on user_credits", &[("policy", "public.user_credits")]),
    broken("customers", "select warden.unprotect('customers')", &[("open-user-table", "public.customers")]),
];
