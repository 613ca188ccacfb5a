//! Breaks beside the required objects: unregistered tables, roles, rights, functions, memberships, watches.

use super::{Break, broken};

pub(super) const BREAKS: &[Break] = &[
    // Tables.
    broken("cold_call_logs", "drop table cold_call_logs; create view cold_call_logs as select 1 as id", &[("table-kind", "public.cold_call_logs")]),
    broken("campaign_phone_numbers", "drop table campaign_phone_numbers; create materialized view campaign_phone_numbers as select 1 as id", &[("table-kind", "public.campaign_phone_numbers")]),
    broken(
        "knowledge_base_changelog",
        "drop table knowledge_base_changelog; create table changes (id uuid, org_id uuid) partition by list (id);
         create table knowledge_base_changelog partition of changes default",
        &[("table-kind", "public.knowledge_base_changelog"), ("unregistered-table", "public.changes")],
    ),
    broken(
        "user_subscriptions",
        "create foreign data wrapper nowhere; create server nowhere foreign data wrapper nowhere;
         drop table user_subscriptions; create foreign table user_subscriptions (user_id uuid) server nowhere",
        &[("table-kind", "public.user_subscriptions")],
    ),
    broken("dnc_list", "create table more_dnc () inherits (dnc_list)", &[("organization-key", "public.more_dnc"), ("org-index", "public.more_dnc")]),
    broken("tickets", "create table tickets (id uuid, user_id uuid)", &[("unregistered-table", "public.tickets")]),
    broken(
        "deals",
        "create table deals (id uuid primary key, owner_id uuid); create table countries (code text primary key);
         create table \"Deal steps\" (id uuid, \"dealId\" uuid not null references deals, country text references countries)",
        &[("unregistered-table", "public.deals"), ("unregistered-table", "public.\"Deal steps\"")],
    ),
    broken(
        "drafts",
        "create schema auth; create table auth.users (id uuid primary key);
         create table drafts (id uuid primary key, writer uuid references auth.users)",
        &[("unregistered-table", "public.drafts")],
    ),
    broken(
        "orders",
        "create table orders (id uuid primary key, tenant_id text);
         create table seats (id uuid primary key, organization uuid not null references organizations)",
        &[("unregistered-table", "public.orders"), ("unregistered-table", "public.seats")],
    ),
    broken("notes", "create schema app; create table app.\"Notes\" (id uuid, org_id uuid)", &[("unregistered-table", "app.\"Notes\"")]),
    // Conventions for the names of columns.
    broken(
        "conventions",
        "create table \"Reports\" (id int primary key, \"Uploaded By\" uuid); create table seats (workspace int);
         create table talks (author uuid); create table books (author text, organization text)",
        &[
            ("unregistered-table", "public.\"Reports\""),
            ("unregistered-table", "public.seats"),
            ("unregistered-table", "public.talks"),
        ],
    ),
    broken("call_tags", "create table call_tags (call_id uuid references calls, tag text)", &[("unregistered-table", "public.call_tags")]),
    broken(
        "knowledge_base_chunks",
        "alter table knowledge_base_chunks rename column document_id to doc",
        &[("parent-link", "public.knowledge_base_chunks")],
    ),
    broken("recordings", "alter event trigger warden_refresh_watches disable; drop table recordings cascade", &[("silent-triggers", "warden_refresh_watches"), ("parent-link", "public.recording_upload_queue"), ("watch-table", "dropped")]),
    // Roles and rights.
    broken("role", "create role audited_reader bypassrls", &[("bypassing-role", "audited_reader")]),
    broken(
        "view",
        "create view all_calls as select c.id from calls c; grant select on all_calls to authenticated",
        &[("bypassing-view", "public.all_calls")],
    ),
    broken(
        "materialized view",
        "create materialized view call_counts as select count(*) from contacts; grant select on call_counts to anon",
        &[("bypassing-view", "public.call_counts")],
    ),
    broken(
        "knowledge_base",
        "create role audited_owner; alter table knowledge_base owner to audited_owner; grant audited_owner to authenticated",
        &[("owner-member", "public.knowledge_base"), ("table-owner", "audited_owner")],
    ),
    broken(
        "settings",
        "create role audited_loader; alter role audited_loader set session_replication_role = replica",
        &[("silent-triggers", "audited_loader")],
    ),
    broken(
        "knowledge_base_documents",
        "alter table knowledge_base_documents disable trigger all",
        &[
            ("silent-triggers", "public.knowledge_base_documents"),
            ("silent-triggers", "public.knowledge_base_chunks"),
            ("immutability", "public.knowledge_base_documents"),
            ("org-default", "public.knowledge_base_documents"),
        ],
    ),
    broken("events", "grant select on warden.events to authenticated", &[("log-rights", "warden.events")]),
    broken("events_3", "grant select (data) on warden.events_3 to public", &[("log-rights", "warden.events_3")]),
    broken("gateway", "grant insert on warden.topics to warden_gateway", &[("log-rights", "warden.topics")]),
    broken("schema warden", "grant create on schema warden to service_role", &[("log-rights", "warden")]),
    broken("members of the owner", "grant warden_owner to warden_publisher", &[("log-rights", "warden_publisher")]),
    broken(
        "leads",
        "grant all on leads to authenticated; grant truncate on calls to public",
        &[("truncate-right", "public.leads"), ("truncate-right", "public.calls")],
    ),
    // Functions.
    broken(
        "topics_changed",
        "create or replace function warden.topics_changed() returns trigger language plpgsql security definer
         set search_path = pg_catalog, pg_temp as 'begin return null; end'",
        &[("function", "warden.topics_changed()")],
    ),
    broken("is_truncated", "drop function warden.is_truncated(xid8)", &[("function", "warden.is_truncated")]),
    broken(
        "begin_epoch",
        "alter function warden.begin_epoch() reset search_path",
        &[("function-search-path", "warden.begin_epoch()")],
    ),
    broken(
        "auth_user_id",
        "alter function public.auth_user_id() set search_path = public, pg_temp",
        &[("function-search-path", "public.auth_user_id()")],
    ),
    broken(
        "a definer function",
        "create function warden.helper() returns int language sql security definer as 'select 1';
         alter function warden.helper() owner to warden_owner; revoke execute on function warden.helper() from public",
        &[("function-search-path", "warden.helper()")],
    ),
    broken("unwatch", "alter function warden.unwatch(regclass) owner to postgres", &[("function-owner", "warden.unwatch(regclass)")]),
    broken(
        "auth_org_id",
        "create role audited_deployer; grant create on schema public to audited_deployer;
         alter function public.auth_org_id() owner to audited_deployer",
        &[("function-owner", "public.auth_org_id()")],
    ),
    broken("auth_org_id", "alter function public.auth_org_id() volatile parallel unsafe", &[("function-marks", "public.auth_org_id()")]),
    broken("epoch", "alter function warden.epoch() security invoker", &[("function-marks", "warden.epoch()")]),
    broken(
        "default_org_for",
        "alter function warden.default_org_for(uuid) security invoker",
        &[("function-marks", "warden.default_org_for(uuid)")],
    ),
    broken(
        "log 1",
        "alter function warden.\"log 1\"() security invoker",
        &[("function-marks", "warden.\"log 1\"()")],
    ),
    broken("publish", "grant execute on function warden.publish(uuid, text, text, jsonb) to public", &[("function-rights", "warden.publish(uuid,text,text,jsonb)")]),
    broken("rotate_events", "grant execute on function warden.rotate_events(interval, bigint, bigint) to anon", &[("function-rights", "warden.rotate_events(interval,bigint,bigint)")]),
    broken("hook", "grant execute on function custom_access_token_hook to authenticated", &[("function-rights", "public.custom_access_token_hook(jsonb)")]),
    broken(
        "auth_org_id",
        "revoke execute on function auth_org_id() from public, authenticated",
        &[("function-callers", "public.auth_org_id()"), ("not-checked", "token-hook")],
    ),
    broken(
        "auth_org_id",
        r#"alter function public.auth_org_id()
         set request.jwt.claims = '{"app_metadata": {"org_id": "a0000000-0000-0000-0000-000000000001"}}'"#,
        &[("claims", "public.auth_org_id()"), ("function-marks", "public.auth_org_id()")],
    ),
    broken(
        "auth_org_id",
        "create or replace function public.custom_access_token_hook(event jsonb) returns jsonb language plpgsql stable
         set search_path = pg_catalog, pg_temp as 'begin return event; end'",
        &[("function", "public.custom_access_token_hook(jsonb)")],
    ),
    broken(
        "auth_org_id",
        "create or replace function warden.default_org_for(user_id uuid) returns uuid language sql stable security definer
         set search_path = pg_catalog, pg_temp set row_security = on as $$ select 'a0000000-0000-0000-0000-000000000001'::uuid $$",
        &[("token-hook", "public.custom_access_token_hook(jsonb)")],
    ),
    // Memberships and the default organisation.
    broken("kb_sync_log", "delete from organizations", &[("default-organization", "public.organizations")]),
    broken(
        "kb_sync_log",
        "insert into organizations (id, name) values ('b0000000-0000-0000-0000-000000000002', 'second');
         insert into organization_members (user_id, org_id) values
           ('d0000000-0000-0000-0000-000000000001', 'a0000000-0000-0000-0000-000000000001'),
           ('d0000000-0000-0000-0000-000000000001', 'b0000000-0000-0000-0000-000000000002'),
           ('d0000000-0000-0000-0000-000000000002', 'b0000000-0000-0000-0000-000000000002')",
        &[("several-memberships", "public.organization_members")],
    ),
    // Watches.
    broken(
        "leads",
        "alter event trigger warden_refresh_watches disable;
         select warden.watch('leads', 'leads', 'lead', omit_columns => '{email}'); alter table leads rename column email to mail",
        &[("silent-triggers", "warden_refresh_watches"), ("watch-shape", "public.leads")],
    ),
    broken(
        "contacts",
        "select warden.watch('contacts', 'contacts', 'contact'); alter table contacts drop constraint contacts_pkey, alter id drop not null",
        &[("watch-columns", "public.contacts"), ("parent-link", "public.consent_records")],
    ),
    broken(
        "campaigns",
        "select warden.watch('campaigns', 'campaigns', 'campaign', entity_topic => 'user', entity_topic_column => 'user_id');
         alter table campaigns drop column user_id",
        &[("watch-columns", "public.campaigns")],
    ),
    broken(
        "campaigns",
        "select warden.watch('campaigns', 'campaigns', 'campaign', filter_columns => '{user_id}');
         alter table campaigns drop column user_id",
        &[("watch-columns", "public.campaigns")],
    ),
    broken(
        "altered columns",
        "create table meters (id int primary key, org_id uuid not null, kind int);
         select warden.watch('meters', 'meters', 'meter', visibility => 'organisation', entity_topic => 'meter_kind',
                             entity_topic_column => 'kind');
         alter table meters alter id type float8, alter kind type date using null",
        &[("watch-columns", "public.meters"), ("unregistered-table", "public.meters")],
    ),
    broken(
        "a deferrable key",
        "create table gauges (id int primary key, org_id uuid not null);
         select warden.watch('gauges', 'gauges', 'gauge', visibility => 'organisation');
         alter table gauges drop constraint gauges_pkey, add primary key (id) deferrable",
        &[("watch-columns", "public.gauges"), ("unregistered-table", "public.gauges")],
    ),
    broken(
        "a partition with a deferrable key",
        "create table probes (id int, org_id uuid not null, at int, primary key (id, at)) partition by range (at);
         select warden.watch('probes', 'probes', 'probe', visibility => 'organisation');
         create table probes_1 (id int, org_id uuid not null, at int, primary key (id, at) deferrable);
         alter table probes attach partition probes_1 for values from (1) to (10)",
        &[("watch-columns", "public.probes"), ("unregistered-table", "public.probes")],
    ),
    broken(
        "leads",
        "create type meter_kind as enum ('gas');
         create table counters (id int primary key, org_id uuid not null, kind meter_kind) partition by range (id);
         create table counters_1 partition of counters for values from (1) to (10);
         create table counters_2 partition of counters for values from (10) to (20);
         select warden.watch('counters', 'counters', 'counter', visibility => 'organisation');
         alter event trigger warden_refresh_watches disable; alter event trigger warden_refresh_watches_drop disable;
         drop table counters_2; alter type meter_kind rename value 'gas' to 'heat'",
        &[("silent-triggers", "warden_refresh_watches"), ("silent-triggers", "warden_refresh_watches_drop"),
          ("watch-shape", "public.counters"), ("unregistered-table", "public.counters")],
    ),
    broken(
        "an unlogged table",
        "create table presences (id int primary key, org_id uuid not null);
         select warden.watch('presences', 'presences', 'presence', visibility => 'organisation');
         alter table presences set unlogged",
        &[("watch-shape", "public.presences"), ("unregistered-table", "public.presences")],
    ),
    broken(
        "a watched table that became a child of another",
        "create table stored (id int primary key, org_id uuid not null); create table recent (id int primary key, org_id uuid not null);
         select warden.watch('stored', 'stored', 'stored', visibility => 'organisation');
         select warden.watch('recent', 'recent', 'recent', visibility => 'organisation');
         alter table recent inherit stored",
        &[("watch-shape", "public.recent"), ("unregistered-table", "public.stored")],
    ),
    broken(
        "subscription",
        "set local allow_system_table_mods = on; insert into pg_subscription_rel values (99999, 'calls'::regclass, 'r', null)",
        &[("watch-replication", "public.calls")],
    ),
    broken(
        "subscription",
        "select warden.watch('calls', 'calls', 'call', entity_topic => 'call', replicated => true);
         alter table calls enable trigger \"!warden_apply_row\"",
        &[("watch-triggers", "public.calls")],
    ),
    broken("watch of calls", "alter table calls disable trigger warden_log_update", &[("watch-triggers", "public.calls")]),
    broken("watch of call_logs", "drop trigger warden_log_insert on call_logs", &[("watch-triggers", "public.call_logs")]),
    broken("recordings", "alter table recordings enable replica trigger warden_log_delete", &[("watch-triggers", "public.recordings")]),
    broken(
        "knowledge_base",
        "select warden.watch('knowledge_base', 'knowledge', 'knowledge');
         create view one as select 1 as one; grant select on one to authenticated;
         create policy few on knowledge_base as restrictive for select using (id is null)",
        &[("watch-visibility", "public.knowledge_base")],
    ),
    broken(
        "an unregistered watched table",
        "create table meetings (id uuid primary key, org_id uuid not null);
         select warden.watch('meetings', 'meetings', 'meeting', visibility => 'organisation');
         drop trigger warden_org_id_immutable on meetings",
        &[("unregistered-table", "public.meetings"), ("watch-triggers", "public.meetings")],
    ),
];
