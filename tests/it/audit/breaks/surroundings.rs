//! Breaks of objects beside the registered tables: roles, functions, sequences, foreign data, queues.

use super::{Break, broken};

pub(super) const BREAKS: &[Break] = &[
    broken(
        "request role",
        "create role audited_admin createrole; create role audited_between; grant audited_admin to audited_between;
         grant audited_between to anon",
        &[("request-role", "anon"), ("role-creator", "audited_admin")],
    ),
    broken("request role", "grant pg_read_all_data to authenticated", &[("request-role", "authenticated")]),
    broken("request role", "alter role anon createrole", &[("request-role", "anon")]),
    broken(
        "all data",
        "create role audited_backup; grant pg_read_all_data, pg_write_all_data to audited_backup",
        &[("all-data-role", "audited_backup")],
    ),
    // Other powers of a request role, and of an ordinary role.
    broken("request role", "grant pg_monitor to anon", &[("request-role", "anon")]),
    broken("request role", "grant pg_execute_server_program to authenticated", &[("request-role", "authenticated")]),
    broken("request role", "grant pg_signal_backend to anon", &[("request-role", "anon")]),
    broken("request role", "alter role authenticated replication", &[("request-role", "authenticated")]),
    broken("all data", "create role audited_etl replication", &[("all-data-role", "audited_etl")]),
    broken(
        "all data",
        "create role audited_loader; grant pg_read_server_files, pg_execute_server_program to audited_loader",
        &[("all-data-role", "audited_loader")],
    ),
    broken("owner", "alter table consent_records owner to authenticated", &[("owner-member", "public.consent_records")]),
    broken(
        "owner",
        "create role audited_planter; alter table organization_members owner to audited_planter",
        &[("organization-owner", "public.organization_members")],
    ),
    broken("role creator", "create role audited_manager createrole", &[("role-creator", "audited_manager")]),
    broken("schema public", "grant create on schema public to authenticated", &[("schema-right", "authenticated")]),
    // Views.
    broken(
        "views",
        "create view lead_names as select id, org_id from leads; create view \"Lead names\" as select * from lead_names;
         grant select on \"Lead names\" to anon",
        &[("bypassing-view", "public.lead_names"), ("bypassing-view", "public.\"Lead names\"")],
    ),
    broken(
        "views",
        "create schema reports; create materialized view reports.payments as select * from public.payments;
         create view reports.barrier with (security_barrier) as select * from reports.payments;
         grant usage on schema reports to authenticated; grant select on reports.barrier to authenticated",
        &[("bypassing-view", "reports.payments"), ("bypassing-view", "reports.barrier")],
    ),
    // Functions.
    broken(
        "functions",
        "create function count_calls(at timestamptz) returns bigint language sql security definer
           as 'select count(*) from public.calls where created_at < at'",
        &[("definer-function", "public.count_calls(timestamp with time zone)")],
    ),
    broken(
        "functions",
        "create schema \"App\"; grant usage on schema \"App\" to authenticated;
         create procedure \"App\".\"Purge\"(\"Older than\" interval) language plpgsql security definer
           as 'begin delete from \"public\".\"leads\"; end';
         revoke execute on procedure \"App\".\"Purge\" from public;
         grant execute on procedure \"App\".\"Purge\" to authenticated",
        &[("definer-function", "\"App\".\"Purge\"(interval)")],
    ),
    // The function names neither table, only a view of one that no request may read, and a view above that
    // one.
    broken(
        "functions",
        "create view all_payments as select * from payments; create view recent_payments as select * from all_payments;
         create function recent_total() returns bigint language sql security definer
           as 'select count(*) from public.recent_payments'",
        &[("definer-function", "public.recent_total()")],
    ),
    // A function that calls another one, and one that builds its statements.
    broken(
        "functions",
        "create function lead_total() returns bigint language sql as 'select count(*) from public.leads';
         create function \"Lead total\"() returns bigint language sql security definer as 'select public.lead_total()';
         create function count_rows(name text) returns bigint language plpgsql security definer as
           'declare n bigint; begin execute format(''select count(*) from %I'', name) into n; return n; end'",
        &[("definer-function", "public.\"Lead total\"()"), ("definer-function", "public.count_rows(text)")],
    ),
    // Other ways to run a statement that is no part of the function's text, also through another function.
    broken(
        "functions",
        "create function as_xml(query text) returns xml language sql security definer as
           $$ select query_to_xml(query, false, false, '') $$;
         create function of_table(name regclass) returns xml language sql security definer as
           $$ select table_to_xml(name, false, false, '') $$;
         create function of_schema() returns xml language sql as $$ select schema_to_xml('public', false, false, '') $$;
         create function \"All rows\"() returns xml language sql security definer as 'select public.of_schema()';
         create function words(query text) returns setof text language sql security definer as
           'select word from ts_stat(query)'",
        &[
            ("definer-function", "public.as_xml(text)"),
            ("definer-function", "public.of_table(regclass)"),
            ("definer-function", "public.\"All rows\"()"),
            ("definer-function", "public.words(text)"),
        ],
    ),
    // What requests write to tables and views that are not registered.
    broken(
        "functions",
        "create table lead_commands (id int primary key, lead text);
         grant insert, delete on lead_commands to authenticated;
         create function obey() returns trigger language plpgsql security definer as
           'begin delete from public.leads where leads.id::text = new.lead; return new; end';
         create trigger obey after insert on lead_commands for each row execute function obey();
         create rule cancel as on delete to lead_commands do also delete from leads where leads.id::text = old.lead;
         create view lead_states as select 1 as id; grant update on lead_states to anon;
         create function set_state() returns trigger language plpgsql security definer as
           'begin update public.leads set id = id; return new; end';
         create trigger set_state instead of update on lead_states for each row execute function set_state()",
        &[
            ("definer-function", "public.obey()"),
            ("definer-function", "public.set_state()"),
            ("rewrite-rule", "public.lead_commands"),
        ],
    ),
    // A trigger of a registered table, whose policies do not limit which other rows the trigger changes.
    broken(
        "functions",
        "create function touch_leads() returns trigger language plpgsql security definer as
           'begin update public.leads set id = id; return new; end';
         create trigger touch_leads after update on contacts for each row execute function touch_leads()",
        &[("definer-function", "public.touch_leads()")],
    ),
    // Functions that set the claims or the role, each in another way, and one that cannot.
    broken(
        "functions",
        "create function act_as(claims text) returns void language sql as $$ select set_config('request.jwt.claims', claims, true) $$;
         create function lead_of(claims text) returns uuid language plpgsql as $$ begin perform public.act_as(claims); return null; end $$;
         create function assume(who text) returns void language plpgsql as $$ begin execute format('set local role %I', who); end $$;
         create function setting(name text, value text) returns void language plpgsql as $$ begin perform set_config(name, value, true); end $$;
         create function fixed() returns bigint language sql set request.jwt.claims = '{}' as 'select count(*) from public.leads';
         create function run(command text) returns void language plpgsql as $$ begin execute command; end $$;
         create function listed(sorting text) returns setof public.leads language plpgsql as
           $$ begin return query execute format('select * from public.leads order by %s', sorting); end $$;
         create function appended(tail text) returns void language plpgsql as
           $$ begin execute format('select %L', tail) || tail; end $$;
         create function divided(who text) returns void language plpgsql as
           $$ begin set /* for this transaction */ local role = 'service_role'; end $$;
         create function note_claims() returns trigger language plpgsql as
           $$ begin perform set_config('request.jwt.claims', new.id::text, true); return new; end $$;
         create trigger note_claims before insert on contacts for each row execute function note_claims();
         create function harmless(tab text, val text) returns void language plpgsql as $$
           begin
             update public.leads set id = id where current_setting('request.jwt.claims', true) = val;
             perform set_config('request.jwt.claims', '', true), set_config('app.note', val, true), set_config('role', 'anon', true);
             execute format('update %I set %I = %L', tab, tab, val); execute 'select $1' using val;
             execute format('select %L', upper(coalesce(val, 'x' || tab))); /* set role postgres; */
             set local role to anon; set local role = 'authenticated'; -- set role postgres;
           end $$;
         create function for_back_ends(claims text) returns void language sql as
           $$ select set_config('request.jwt.claims', claims, true) $$;
         revoke execute on function for_back_ends(text) from public; grant execute on function for_back_ends(text) to service_role",
        &[
            ("claim-setter", "public.act_as(text)"),
            ("claim-setter", "public.lead_of(text)"),
            ("claim-setter", "public.assume(text)"),
            ("claim-setter", "public.setting(text,text)"),
            ("claim-setter", "public.fixed()"),
            ("claim-setter", "public.run(text)"),
            ("claim-setter", "public.listed(text)"),
            ("claim-setter", "public.appended(text)"),
            ("claim-setter", "public.divided(text)"),
            ("claim-setter", "public.note_claims()"),
        ],
    ),
    // A view, a function, a trigger and a rule that only a role of the application may use.
    broken(
        "views of a role",
        "create role audited_app; create view app_leads as select id from leads;
         grant select on app_leads to audited_app with grant option;
         create function app_count() returns bigint language sql security definer as 'select count(*) from public.leads';
         revoke execute on function app_count() from public; grant execute on function app_count() to audited_app;
         create table app_commands (id int); grant insert, delete on app_commands to audited_app;
         create function app_obey() returns trigger language plpgsql security definer as
           'begin delete from public.leads; return new; end';
         create trigger app_obey after insert on app_commands for each row execute function app_obey();
         create rule app_rule as on delete to app_commands do also delete from leads",
        &[
            ("bypassing-view", "public.app_leads"),
            ("definer-function", "public.app_count()"),
            ("definer-function", "public.app_obey()"),
            ("rewrite-rule", "public.app_commands"),
        ],
    ),
    // A view that requests may only write to.
    broken(
        "views",
        "create view removable_leads as select id from leads; grant delete on removable_leads to authenticated",
        &[("bypassing-view", "public.removable_leads")],
    ),
    broken(
        "contacts",
        "create rule keep as on delete to contacts do also delete from leads where leads.org_id = old.org_id",
        &[("rewrite-rule", "public.contacts")],
    ),
    // Sequences.
    broken(
        "sequences",
        "create sequence \"Call numbers\" owned by calls.id; grant all on sequence \"Call numbers\" to anon, authenticated;
         create sequence lead_numbers owned by leads.id; grant usage on sequence lead_numbers to authenticated",
        &[("sequence-right", "public.calls"), ("sequence-right", "public.leads")],
    ),
    // Foreign data.
    broken(
        "foreign data",
        "create foreign data wrapper elsewhere; create server \"Other\" foreign data wrapper elsewhere;
         create foreign table weather (day date) server \"Other\"; grant select on weather to anon;
         create user mapping for public server \"Other\"",
        &[("foreign-data", "public.weather"), ("foreign-data", "Other")],
    ),
    broken(
        "foreign data",
        "create extension postgres_fdw; create server back foreign data wrapper postgres_fdw options (dbname 'app');
         create user mapping for current_user server back options (user 'postgres');
         create foreign table all_leads (id uuid) server back options (table_name 'leads');
         create view lead_ids as select id from all_leads; create view shown_ids as select id from lead_ids;
         grant select on shown_ids to authenticated;
         create function remote_leads() returns bigint language sql security definer as 'select count(*) from public.all_leads'",
        &[("foreign-data", "public.shown_ids"), ("foreign-data", "public.remote_leads()")],
    ),
    broken(
        "foreign data",
        "create extension dblink;
         create role audited_reporter; create function remote_calls() returns setof uuid language plpgsql security definer
           as 'begin return query select id from public.dblink(''dbname=app'', ''select id from calls'') c (id uuid); end';
         alter function remote_calls() owner to audited_reporter",
        &[("server-function", "dblink"), ("foreign-data", "public.remote_calls()")],
    ),
    // Functions that act outside row-level security.
    broken(
        "server functions",
        "grant execute on function pg_read_file(text), lo_export(oid, text) to authenticated;
         create function audited_add(int, int) returns int language internal as 'int4pl'",
        &[
            ("server-function", "pg_read_file(text)"),
            ("server-function", "lo_export(oid,text)"),
            ("server-function", "public.audited_add(integer,integer)"),
        ],
    ),
    broken(
        "queues",
        "create schema pgmq; create table pgmq.q_mails (msg_id bigint, message jsonb); grant usage on schema pgmq to authenticated;
         grant select on pgmq.q_mails to authenticated",
        &[("queue-table", "pgmq")],
    ),
    broken(
        "queues of libraries",
        "create table audited_none (id int); create table oban_jobs (id int, args jsonb); create table failed_jobs (id int, payload text);
         create table session (sid text, sess json); grant select on oban_jobs, failed_jobs, session to authenticated",
        &[
            ("queue-table", "public.oban_jobs"),
            ("queue-table", "public.failed_jobs"),
            ("queue-table", "public.session"),
        ],
    ),
    broken("publication", "create publication audited_some for table calls, leads", &[("publication", "audited_some")]),
    broken("publication", "create publication audited_all for all tables", &[("publication", "audited_all")]),
    broken(
        "event trigger",
        "create function audited_hook() returns event_trigger language plpgsql as 'begin end';
         create role audited_plugin; grant create on schema public to audited_plugin;
         alter function audited_hook() owner to audited_plugin;
         create event trigger audited_trigger on ddl_command_end execute function audited_hook()",
        &[("event-trigger", "audited_trigger")],
    ),
    broken("large objects", "select lo_create(4711); grant select on large object 4711 to public", &[("large-object", "large objects")]),
    broken(
        "large objects",
        "select lo_create(4712); alter large object 4712 owner to authenticated",
        &[("large-object", "large objects")],
    ),
    broken(
        "storage",
        "create schema storage; create table storage.objects (id uuid primary key, bucket_id text, name text);
         alter table storage.objects enable row level security;
         create policy uploads on storage.objects for all to authenticated using (bucket_id = 'uploads')",
        &[("storage-policy", "storage.objects")],
    ),
];
