-- Decisions of a person about findings: "this is on purpose, because ...". The audit reports an accepted finding as a
-- notice. `warden migrate` records here whether an existing object of the application is kept or replaced.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

create table if not exists warden.decisions (
  -- Rule of the audit, or 'existing-object'.
  rule       text not null,
  -- Object as the audit names it in the call of warden.accept_finding() that it prints.
  object     text not null,
  -- 'accept', or for 'existing-object': 'keep' or 'replace'.
  choice     text not null,
  reason     text not null,
  decided_by name not null default current_user,
  decided_at timestamptz not null default now(),
  primary key (rule, object)
);

-- Rules whose findings can be accepted, because the database may be like this on purpose. The other rules concern what
-- isolation rests on: their findings must be removed. (The audit has the same list, and a test compares both.)
create or replace function warden.acceptable_rules() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select array['unregistered-table', 'loose-key', 'other-policy', 'policy-condition', 'open-user-table', 'organization-owner', 'bypassing-role',
               'bypassing-view', 'all-data-role', 'role-creator', 'definer-function', 'claim-setter', 'rewrite-rule', 'sequence-right',
               'foreign-data', 'server-function', 'queue-table', 'publication', 'event-trigger', 'large-object',
               'storage-policy', 'several-memberships', 'watch-replication', 'table-owner']
$$;

-- Records that a finding is accepted, and why. The audit then reports it as a notice.
create or replace function warden.accept_finding(rule text, object text, reason text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if not coalesce(accept_finding.rule = any (warden.acceptable_rules()), false) then
    raise exception 'findings of the rule "%" cannot be accepted', accept_finding.rule
      using errcode = '22023',
            hint = 'Apply the remedy that "warden audit" prints. These rules can be accepted: '
              || pg_catalog.array_to_string(warden.acceptable_rules(), ', ') || '.';
  end if;
  if coalesce(pg_catalog.btrim(accept_finding.reason), '') = '' then
    raise exception 'a finding is accepted only with a reason' using errcode = '22023';
  end if;
  insert into warden.decisions (rule, object, choice, reason)
  values (accept_finding.rule, accept_finding.object, 'accept', accept_finding.reason)
  on conflict on constraint decisions_pkey do update
    set choice = excluded.choice, reason = excluded.reason, decided_by = default, decided_at = default;
end
$$;

-- Removes the decision, so that the audit reports the finding again.
create or replace function warden.reopen_finding(rule text, object text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  delete from warden.decisions d where d.rule = reopen_finding.rule and d.object = reopen_finding.object;
  if not found then
    raise exception 'no decision about "%" of the rule "%" is recorded', reopen_finding.object, reopen_finding.rule
      using errcode = '22023', hint = 'The table warden.decisions lists them.';
  end if;
end
$$;
reset role;
