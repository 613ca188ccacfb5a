//! Breaks of what every policy rests on: owners, triggers and settings of schema `warden`, and objects that
//! an ordinary role planted or replaced.

use super::{Break, broken};

pub(super) const BREAKS: &[Break] = &[
    // Owners.
    broken("registry", "create role audited_clerk; alter table warden.tenant_tables owner to audited_clerk", &[("warden-owner", "warden.tenant_tables")]),
    broken("sequence", "create role audited_counter; alter sequence warden.events_slot owner to audited_counter", &[("warden-owner", "warden.events_slot")]),
    broken("owner of contacts", "create role audited_contractor; alter table contacts owner to audited_contractor", &[("table-owner", "audited_contractor")]),
    broken("record", "create role audited_writer; alter table warden._sqlx_migrations owner to audited_writer", &[("warden-owner", "warden._sqlx_migrations")]),
    broken(
        "type",
        "create role audited_typist; create type warden.kind as enum ('a'); alter type warden.kind owner to audited_typist",
        &[("warden-owner", "warden.kind")],
    ),
    broken("view", "create role audited_viewer; alter view warden.tenant_objects owner to audited_viewer", &[("warden-owner", "warden.tenant_objects")]),
    broken(
        "view",
        "create or replace view warden.tenant_objects as select * from warden.tenant_object_rows() where false",
        &[("warden-owner", "warden.tenant_objects")],
    ),
    broken(
        "event trigger",
        "create role audited_listener; grant create on schema warden to audited_listener;
         alter function warden.refresh_watches_after_ddl() owner to audited_listener",
        &[("function-owner", "warden.refresh_watches_after_ddl()")],
    ),
    broken("schema public", "create role audited_landlord; alter schema public owner to audited_landlord", &[("schema-right", "audited_landlord")]),
    // Functions that were changed after the adoption.
    broken(
        "original auth_org_id",
        "create or replace function warden.auth_org_id() returns uuid language sql stable parallel safe set search_path = pg_catalog, pg_temp
         as $$ select 'a0000000-0000-0000-0000-000000000001'::uuid $$",
        &[("claims", "warden.auth_org_id()")],
    ),
    broken("auth_org_id", "alter function public.auth_org_id() set role = 'service_role'", &[("function-marks", "public.auth_org_id()")]),
    broken("guard", "alter function public.prevent_org_id_change() set session_replication_role = replica", &[("function-marks", "public.prevent_org_id_change()")]),
    broken("auth_org_id", "alter function public.auth_org_id() leakproof", &[("function-marks", "public.auth_org_id()")]),
    broken("object_name", "alter function warden.object_name(text[]) strict", &[("function-marks", "warden.object_name(text[])")]),
    broken("log 2", "alter function warden.\"log 2\"() set role = 'service_role'", &[("function-marks", "warden.\"log 2\"()")]),
    // Triggers.
    broken(
        "events",
        "create function audited_copy() returns trigger language plpgsql as 'begin return new; end';
         create trigger copy before insert on warden.topics for each row execute function audited_copy()",
        &[("warden-trigger", "warden.topics")],
    ),
    broken(
        "organization_members",
        "create role audited_promoter; grant create on schema public to audited_promoter;
         create function audited_promote() returns trigger language plpgsql as 'begin return new; end';
         alter function audited_promote() owner to audited_promoter;
         create trigger promote before insert on organization_members for each row execute function audited_promote()",
        &[("warden-trigger", "public.organization_members")],
    ),
    broken("deletions", "alter table organizations disable trigger warden_incarnation_delete", &[("watch-triggers", "public.organizations")]),
    broken(
        "deletions",
        "create or replace trigger warden_incarnation_delete after insert on organizations for each row
           execute function warden.organization_deleted();
         alter table organizations enable always trigger warden_incarnation_delete",
        &[("watch-triggers", "public.organizations")],
    ),
    broken(
        "deletions",
        "create or replace trigger warden_incarnation_delete after delete on organizations for each row
           when (false) execute function warden.organization_deleted();
         alter table organizations enable always trigger warden_incarnation_delete",
        &[("watch-triggers", "public.organizations")],
    ),
    broken("deletions", "drop trigger warden_incarnation_truncate on organizations", &[("watch-triggers", "public.organizations")]),
    broken("protect_members", "alter event trigger warden_protect_members disable", &[("silent-triggers", "warden_protect_members")]),
    // Settings with which sessions begin.
    broken(
        "claims of a role",
        "create role audited_login; alter role audited_login set request.jwt.claims = '{}'",
        &[("session-default", "role audited_login")],
    ),
    broken("role of requests", "alter role anon set role = 'service_role'", &[("session-default", "role anon")]),
    broken(
        "search_path",
        "create role audited_searcher; alter role audited_searcher set search_path = public, pg_catalog, \"My app\"",
        &[("session-default", "role audited_searcher")],
    ),
    broken(
        "create in database",
        "do $$ begin execute format('grant create on database %I to anon', current_database()); end $$",
        &[("schema-right", "anon")],
    ),
    broken(
        "owner of the database",
        "do $$ begin execute format('alter database %I owner to authenticated', current_database()); end $$",
        &[("owner-member", "authenticated")],
    ),
    broken(
        "member of the database's owner",
        "create role audited_lord; grant audited_lord to authenticated;
         do $$ begin execute format('alter database %I owner to audited_lord', current_database()); end $$",
        &[("owner-member", "authenticated")],
    ),
    broken(
        "indirect member of the database's owner",
        "create role audited_baron; create role audited_knight; grant audited_baron to audited_knight;
         grant audited_knight to authenticated;
         do $$ begin execute format('alter database %I owner to audited_baron', current_database()); end $$",
        &[("owner-member", "authenticated")],
    ),
];
